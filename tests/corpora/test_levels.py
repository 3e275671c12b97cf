"""Level, clipping and DC of a corpus: known answers, and one line for each fact."""

import math

import pytest
import soundfile
import torch

from asr_kd.corpora.levels import Level, level_lines, level_of
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.utterance_checks import check_utterances

SINE = torch.sin(2 * math.pi * 200 * torch.arange(16_000) / 16_000)


def test_the_level_is_that_of_the_speech_without_its_pauses():
    spoken = 0.1 * SINE
    paused = torch.cat([torch.zeros(8_000), spoken, 1e-4 * SINE])
    for waveform in (spoken, paused):
        assert level_of(waveform).active_dbfs == pytest.approx(-20 - 10 * math.log10(2), abs=0.01)
    assert level_of(torch.zeros(1_000)) == Level(None, 0, 0.0, 1_000)
    assert level_of(torch.full((100,), 0.5)).active_dbfs == pytest.approx(20 * math.log10(0.5))
    assert level_of(torch.zeros(0)) == Level(None, 0, 0.0, 0)


def test_clipping_and_offset():
    level = level_of((2 * SINE).clamp(-1, 1) * 32_767 / 32_768)
    assert level.clipped == pytest.approx(16_000 * 2 / 3, rel=0.02)  # a sine above half its peak
    assert level_of(0.2 * SINE + 0.05).dc == pytest.approx(0.05, abs=1e-4)


def test_one_line_for_each_fact():
    def levels(dbfs, count, clipped=0, dc=0.0):
        return [Level(dbfs, clipped, dc, 1_000)] * count

    assert level_lines({"train": levels(-20.0, 5), "test": levels(-25.9, 5)}) == [
        "level of active speech, dBFS, median (5 to 95 % of the recordings): "
        "train -20.0 (-20.0 to -20.0), test -25.9 (-25.9 to -25.9)"
    ]
    found = level_lines(
        {
            "train": [*levels(-20.0, 8, clipped=100), *levels(-20.0, 2)],
            "dev": levels(-13.0, 10, dc=0.02),
            "test": [*levels(-35.0, 9), *levels(None, 1)],
        }
    )
    assert [line.split(":")[1].split(",")[0].strip() for line in found[1:]] == [
        "dev is 7.0 dB louder than train",
        "test is 15.0 dB quieter than train",
        "8 of 30 recordings (26.7%) are clipped",
        "10 of 30 recordings (33.3%) have a DC offset",
        "1 of 30 recordings are digital silence",
    ]
    assert "10.00% of their samples" in found[3]
    assert level_lines({}) == []


def test_check_compares_the_sets(tmp_path):
    sets = {}
    for name, amplitude in (("train", 0.5), ("test", 0.05)):
        sets[name] = []
        for number in range(3):
            path = tmp_path / f"{name}-{number}.wav"
            soundfile.write(path, (amplitude * SINE).numpy(), 16_000)
            sets[name].append(Utterance(path.stem, path, 1.0, "A", "s"))
    utterances = [utterance for found in sets.values() for utterance in found]
    report = check_utterances(utterances, None, "none", sets=sets)
    assert report.ok
    assert any("note: test is 20.0 dB quieter than train" in line for line in report.lines())
    assert not any("quieter" in line for line in check_utterances(utterances, None, "none", read=False).lines())
