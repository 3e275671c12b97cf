"""Audio block by block: the same samples and the same errors as read at once, in the memory of a block."""

import shutil

import numpy as np
import pytest
import soundfile
import torch

from asr_kd.audio import read_audio, read_blocks
from asr_kd.errors import AudioError

SPEECH = (np.random.default_rng(1).standard_normal(50_000) * 0.1).clip(-1, 1).astype(np.float32)


def written(path, rate=16_000, samples=SPEECH):
    soundfile.write(path, samples, rate)
    return path


@pytest.mark.parametrize("seconds", [0.1, 0.37, 1.0, 3.125, 100.0])
@pytest.mark.parametrize("suffix", ["flac", "wav", "ogg"])
def test_blocks_are_the_file(tmp_path, suffix, seconds):
    path = written(tmp_path / f"speech.{suffix}")
    blocks = list(read_blocks(path, block_seconds=seconds))
    assert max(map(len, blocks)) <= seconds * 16_000
    assert torch.equal(torch.cat(blocks), read_audio(path))


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_another_rate_is_resampled_as_a_whole(tmp_path, rate):
    time = np.arange(3 * rate + 17) / rate
    path = written(tmp_path / "tone.flac", rate, (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32))
    whole, blocks = read_audio(path), torch.cat(list(read_blocks(path, block_seconds=0.5)))
    assert len(blocks) == len(whole)
    assert float((blocks - whole).abs().max()) < 1e-3


def test_channels_follow_the_policy(tmp_path):
    stereo = np.stack([SPEECH, -SPEECH / 2], axis=1)
    path = written(tmp_path / "stereo.flac", samples=stereo)
    for policy in ("first", "mean"):
        assert torch.equal(torch.cat(list(read_blocks(path, channels=policy))), read_audio(path, channels=policy))
    with pytest.raises(AudioError, match="2 channels"):
        next(read_blocks(path))


def test_damage_is_found_where_it_lies(tmp_path):
    path = written(tmp_path / "speech.wav")
    cut = tmp_path / "cut.wav"
    cut.write_bytes(path.read_bytes()[:60_000])
    blocks = read_blocks(cut, block_seconds=0.5)
    assert len(next(blocks)) == 8_000
    with pytest.raises(AudioError, match="cut off"):
        list(blocks)
    bad = SPEECH.copy()
    bad[40_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", bad, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN"):
        list(read_blocks(tmp_path / "nan.wav", block_seconds=1.0))
    with pytest.raises(AudioError, match="no such file"):
        list(read_blocks(tmp_path / "missing.wav"))
    written(tmp_path / "empty.wav", samples=SPEECH[:0])
    with pytest.raises(AudioError, match="holds no samples"):
        list(read_blocks(tmp_path / "empty.wav"))


def test_a_damaged_ogg_page_is_found_at_the_end(tmp_path):
    path = written(tmp_path / "speech.ogg")
    data = bytearray(path.read_bytes())
    shutil.copy(path, tmp_path / "whole.ogg")
    path.write_bytes(data[:-40])
    with pytest.raises(AudioError):
        list(read_blocks(path))
    assert list(read_blocks(tmp_path / "whole.ogg"))
