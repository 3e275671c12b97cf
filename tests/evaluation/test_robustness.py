"""Conditions by name, the same for every system and run; and rows with known numbers."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import EvaluationError, StoppedEarly
from asr_kd.evaluation.resumption import Resumption, SetVariant
from asr_kd.evaluation.settings import STANDARD, EvaluationSettings, parse_condition
from asr_kd.evaluation.sweeps import BabbleSource, perturbed, robustness_rows
from asr_kd.evaluation.system import System
from asr_kd.evaluation.system_outputs import TranscribedSet
from tests.helpers.tiny_models import noise_speech


def others(count):
    return [noise_speech(0.5 + 0.1 * number, seed=number + 7) for number in range(count)]


def settings(*conditions):
    return EvaluationSettings(normalizer="none", bootstrap_samples=200, robustness=conditions)


@pytest.mark.parametrize("name", [*STANDARD, "gain:-12"])
def test_a_condition_is_a_function_of_utterance_and_name(name):
    waveform, condition = noise_speech(1.0), parse_condition(name)
    once, again = (perturbed(waveform, condition, "u1", others) for _ in range(2))
    assert condition.name == name
    assert torch.equal(once, again)
    length = len(waveform) / float(condition.value) if condition.kind == "speed" else len(waveform)
    length += round(16_000 * float(condition.value)) if condition.kind == "lead" else 0
    assert abs(len(once) - length) <= 1
    if condition.kind in ("babble", "pink", "reverb"):
        assert not torch.equal(once, perturbed(waveform, condition, "u2", others))


@pytest.mark.parametrize(("name", "expected"), [("pink:10", 10.0), ("babble:5", 5.0), ("babble:20", 20.0)])
def test_noise_has_the_level_of_its_name(name, expected):
    waveform = noise_speech(1.0)
    noise = perturbed(waveform, parse_condition(name), "u1", others).double() - waveform
    ratio = 10 * math.log10(float(waveform.double().square().sum() / noise.square().sum()))
    assert ratio == pytest.approx(expected, abs=0.01)


def test_silence_leads_and_a_low_rate_has_no_high_band():
    waveform = noise_speech(1.0) + 0.05 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    led = perturbed(waveform, parse_condition("lead:0.3"), "u1", others)
    assert torch.equal(led, torch.cat([torch.zeros(4_800), waveform]))
    narrow = perturbed(waveform, parse_condition("rate:8000"), "u1", others)
    before, after = (torch.fft.rfft(samples).abs().square() for samples in (waveform, narrow))
    assert after[4_200:].sum() < 1e-3 * before[4_200:].sum()
    assert after[100:3_500].sum() == pytest.approx(float(before[100:3_500].sum()), rel=0.05)


@pytest.mark.parametrize("name", ["pink", "pink:loud", "pink:99", "codec:flac", "rain:3", "speed:0", "pink:nan"])
def test_other_conditions_are_refused_with_the_recipe(name):
    with pytest.raises(ValidationError, match="condition"):
        EvaluationSettings(robustness=(name,))


def test_conditions_of_a_recipe():
    assert EvaluationSettings().conditions == []
    assert [condition.name for condition in EvaluationSettings(robustness=True).conditions] == list(STANDARD)
    assert EvaluationSettings(robustness=["speed:1.1"]).conditions == [("speed", "1.1")]


class LoudOnly:
    """Transcribes what is loud enough, by its length."""

    def __init__(self, texts):
        self.texts = texts
        self.received = []

    def transcribe(self, waveforms):
        self.received += waveforms
        return [self.texts[len(waveform)] if waveform.abs().max() > 0.05 else "" for waveform in waveforms]


def test_rows_of_known_errors(utterances):
    texts = {round(utterance.duration * 16_000): utterance.text for utterance in utterances}
    good, poor = LoudOnly(texts), LoudOnly(texts)
    clean = {"teacher": {u.id: u.text for u in utterances}, "poor": {u.id: "" for u in utterances}}
    systems = [System("t", "teacher", good), System("poor", "other", poor)]
    rows = robustness_rows(systems, "test", TranscribedSet(utterances, clean), settings("gain:-20", "pink:20"))
    assert [row["condition"] for row in rows["teacher"]] == ["clean", "gain:-20", "pink:20"]
    assert [row["wer"] for row in rows["teacher"]] == [0.0, 1.0, 0.0]
    assert [row["wer"] for row in rows["poor"]] == [1.0, 1.0, 0.0]
    assert rows["teacher"][1] == {
        "set": "test", "condition": "gain:-20", "wer": 1.0, "substitutions": 0, "deletions": 16, "insertions": 0,
        "words": 16, "utterances": 5,
    }  # fmt: skip
    for one, other in zip(good.received, poor.received, strict=True):
        assert torch.equal(one, other)


def test_a_stop_under_a_condition_keeps_it_and_the_next_run_goes_on(utterances):
    texts = {round(utterance.duration * 16_000): utterance.text for utterance in utterances}
    clean = TranscribedSet(utterances, {"teacher": {u.id: u.text for u in utterances}})
    wanted = settings("gain:-20", "pink:20").model_copy(update={"batch_seconds": 0.1})
    reasons, kept = iter([None, None, "SIGTERM"]), {}
    stopped = Resumption({}, kept.__setitem__, lambda: next(reasons))
    with pytest.raises(StoppedEarly, match=r"stopped \(SIGTERM\) after 3 of 5 utterances of test, gain:-20"):
        robustness_rows([System("t", "teacher", LoudOnly(texts))], "test", clean, wanted, stopped)
    assert {variant: len(found["teacher"]) for variant, found in kept.items()} == {SetVariant("test", "gain:-20"): 3}
    system = System("t", "teacher", LoudOnly(texts))
    rows = robustness_rows([system], "test", clean, wanted, Resumption(kept))
    assert len(system.recognizer.received) == 2 + 5
    assert [row["wer"] for row in rows["teacher"]] == [0.0, 1.0, 0.0]


def test_babble_is_of_other_speakers(utterances):
    babble = BabbleSource(utterances)
    own = [read_utterance(utterance) for utterance in utterances if utterance.speaker == "ann"]
    around = babble.others_of(utterances[0], 5)
    assert len(around) == 4
    assert not any(torch.equal(voice, mine) for voice in around for mine in own if len(voice) == len(mine))
    assert [len(voice) for voice in babble.others_of(utterances[0], 2)] == [len(voice) for voice in around[:2]]
    assert len(BabbleSource(utterances[:2]).others_of(utterances[0], 5)) == 1  # there is no other
    with pytest.raises(EvaluationError, match="babble needs other utterances"):
        BabbleSource(utterances[:1]).others_of(utterances[0], 5)
    assert np.isfinite([float(voice.sum()) for voice in around]).all()
