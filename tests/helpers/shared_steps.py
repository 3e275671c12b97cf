"""Several streams of one model at positions of their own, in shared steps: for every kind of recognizer."""

import numpy as np

from asr_kd.runtime.recognizer import Recognizer
from asr_kd.runtime.streaming import step_together
from tests.helpers.tiny_models import noise_speech


def say_the_same_together(recognizer: Recognizer) -> list[int]:
    """Assert that streams fed in packets of random sizes say what each says alone; how many shared each step."""
    waveforms = [noise_speech(seconds, seed) for seed, seconds in enumerate([1.5, 0.4, 2.0, 0.9, 0.0])]
    streams = [recognizer.stream() for _ in waveforms]
    generator = np.random.default_rng(1)
    sent, sizes = [0] * len(waveforms), []
    while any(at < len(waveform) for at, waveform in zip(sent, waveforms, strict=True)):
        for place, (stream, waveform) in enumerate(zip(streams, waveforms, strict=True)):
            packet = waveform[sent[place] : sent[place] + int(generator.integers(0, 4_000))]
            stream.queue(packet)
            sent[place] += len(packet)
        while ready := [stream for stream in streams if stream.is_ready]:
            sizes.append(len(ready))
            assert step_together(ready) == {}
    for stream in streams:
        stream.queue_end()
    while ready := [stream for stream in streams if stream.is_ready][:2]:
        assert step_together(ready) == {}
    assert [stream.final() for stream in streams] == recognizer.transcribe(waveforms)
    assert sum(bool(stream.tokens) for stream in streams) >= 3
    return sizes
