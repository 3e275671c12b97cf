"""Endpoint rules at known answers."""

import pytest
from pydantic import ValidationError

from asr_kd.decoding.endpoint import EndpointSettings, activated_rule


@pytest.mark.parametrize(
    ("utterance", "silence", "rule"),
    [
        (0.0, 0.0, None),
        (2.36, 2.36, None),
        (2.4, 2.4, 1),  # nothing was said
        (1.2, 1.2, None),  # nothing was said: rule 2 asks for text
        (3.0, 1.2, 2),
        (3.0, 1.16, None),
        (3.6, 2.4, 1),  # the first rule that holds
        (19.96, 0.0, None),
        (20.0, 0.0, 3),
    ],
)
def test_known_answers_of_the_default_rules(utterance, silence, rule):
    assert activated_rule(EndpointSettings(), utterance, silence) == rule


def test_rules_are_settings():
    strict = EndpointSettings(rule2_min_trailing_silence=0.4, rule3_min_utterance_length=5)
    assert activated_rule(strict, 2.0, 0.4) == 2
    assert activated_rule(strict, 5.0, 0.0) == 3
    with pytest.raises(ValidationError):
        EndpointSettings(rule1_min_trailing_silence=-1)
