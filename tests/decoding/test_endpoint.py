"""Endpoint rules: known answers, and float32 as in sherpa-onnx."""

import numpy as np
import pytest
from pydantic import ValidationError

from asr_kd.decoding.settings import EndpointSettings, activated_rule


@pytest.mark.parametrize(
    ("frames", "blanks", "rule"),
    [
        (0, 0, None),
        (59, 59, None),
        (61, 61, 1),  # no token
        (31, 31, None),  # no token: rule 2 needs text
        (75, 31, 2),
        (75, 29, None),
        (90, 61, 1),  # the first rule that holds
        (499, 0, None),
        (501, 0, 3),
    ],
)
def test_known_answers_of_the_default_rules(frames, blanks, rule):
    assert activated_rule(EndpointSettings(), frames, blanks) == rule


@pytest.mark.parametrize("frames", [5, 9, 10, 15, 30, 40])
def test_rules_compare_in_float32(frames):
    """30 frames of 0.04 s are less than 1.2 s in float32, in which sherpa-onnx compares."""
    rules = EndpointSettings(rule1_min_trailing_silence=round(frames * 0.04, 2))
    assert np.float32(4 * frames) * np.float32(0.01) < np.float32(round(frames * 0.04, 2))
    assert activated_rule(rules, frames, frames) is None
    assert activated_rule(rules, frames + 1, frames + 1) == 1


def test_rules_are_settings():
    strict = EndpointSettings(rule2_min_trailing_silence=0.4, rule3_min_utterance_length=5)
    assert activated_rule(strict, 50, 11) == 2
    assert activated_rule(strict, 126, 0) == 3
    with pytest.raises(ValidationError):
        EndpointSettings(rule1_min_trailing_silence=-1)
