"""Streams of a bundle share steps."""

from asr_kd.runtime.recognizer import open_recognizer
from tests.helpers.shared_steps import say_the_same_together


def test_streams_of_a_bundle_say_in_one_batch_what_they_say_alone(bundle):
    assert {1, 2, 3} <= set(say_the_same_together(open_recognizer(bundle)))
