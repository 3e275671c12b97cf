"""How much silence follows an utterance, so that a chunked model has said everything: defined once, for all paths.

Streaming, masked whole-utterance evaluation and the parity check all pad by this rule; that is why they agree.
"""

from asr_kd.features.fbank import FRAME_SHIFT_MS, FRAME_SHIFT_SAMPLES, SAMPLE_RATE, num_frames
from asr_kd.models.subsampling import FACTOR, LOOKAHEAD_FEATURE_FRAMES, feature_frames_for

DEFAULT_TAIL_MS = 320
"""Silence that a stream is given to finish its last word: a CTC student emits later than it hears."""

LOOKAHEAD_MS = LOOKAHEAD_FEATURE_FRAMES * FRAME_SHIFT_MS


def num_chunks(num_samples: int, chunk_frames: int, tail_ms: int = DEFAULT_TAIL_MS) -> int:
    """Chunks that an utterance takes, its tail included; 0 for an empty one.

    Every feature frame of the audio and of the tail is among the 4·C frames that a chunk moves on by, none
    only among the 3 of its look-ahead.
    """
    if num_samples == 0:
        return 0
    frames = num_frames(num_samples + tail_ms * SAMPLE_RATE // 1000)
    return max(-(-frames // (FACTOR * chunk_frames)), 1)


def padded_num_samples(num_samples: int, chunk_frames: int, tail_ms: int = DEFAULT_TAIL_MS) -> int:
    """Samples of an utterance after padding: exactly `num_chunks` windows of 4·C + 3 feature frames.

    At least 30 ms are added, so the last window holds silence only at its very end and Kaldi's reflection
    there reads zeros: features do not depend on whether more silence follows.

    Args:
        num_samples: samples at 16 kHz.
        chunk_frames: C, encoder frames of 40 ms in a chunk.
        tail_ms: silence after the end that must be heard.
    """
    chunks = num_chunks(num_samples, chunk_frames, tail_ms)
    return FRAME_SHIFT_SAMPLES * feature_frames_for(chunk_frames * chunks) if chunks else 0
