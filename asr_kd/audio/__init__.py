"""Audio files to waveforms of 16 kHz, one channel; damaged files are refused."""

from asr_kd.audio.decoder import DURATION_TOLERANCE_SECONDS
from asr_kd.audio.waveform_reader import (
    SAMPLE_RATE,
    AudioInfo,
    ChannelPolicy,
    length_problem,
    probe,
    read_audio,
    read_blocks,
    resample,
)

__all__ = [
    "DURATION_TOLERANCE_SECONDS",
    "SAMPLE_RATE",
    "AudioInfo",
    "ChannelPolicy",
    "length_problem",
    "probe",
    "read_audio",
    "read_blocks",
    "resample",
]
