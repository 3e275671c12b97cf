"""Sound and pictures small enough to stand inside a page. Knows waveforms only.

Shapes: S samples.
"""

import base64
import io

import numpy as np
import soundfile
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE

MEL_BINS = 80
SHORTEST_HOP_SAMPLES = SAMPLE_RATE // 100
MOST_COLUMNS = 1_500
"""Of a spectrogram: 15 s at 10 ms; longer utterances take longer steps."""
DYNAMIC_RANGE_DB = 65.0
WEBP_QUALITY = 45

_FORMATS = (("MP3", "MPEG_LAYER_III", "audio/mpeg"), ("FLAC", "PCM_16", "audio/flac"))
"""What every browser plays, the smaller first: 3 to 4 kB a second, against 17."""
_MP3_COMPRESSION = 0.75  # 0 best, 1 smallest: 3.2 kB a second of AN4


def sound(waveform: Tensor) -> str:
    """A waveform, [S] at 16 kHz, as a data URI that browsers play."""
    available = soundfile.available_formats()
    container, subtype, mime = next(form for form in _FORMATS if form[0] in available)
    smaller = {"compression_level": _MP3_COMPRESSION, "bitrate_mode": "VARIABLE"} if container == "MP3" else {}
    file = io.BytesIO()
    soundfile.write(file, waveform.numpy(), SAMPLE_RATE, format=container, subtype=subtype, **smaller)
    return _data_uri(mime, file.getvalue())


def spectrogram(waveform: Tensor) -> str:
    """The log-mel spectrogram of a waveform, [S] at 16 kHz, as a data URI: loud is white, low is at the bottom."""
    import librosa  # slow to import
    from PIL import Image

    samples = waveform.numpy()
    hop = max(SHORTEST_HOP_SAMPLES, -(-len(samples) // MOST_COLUMNS))
    power = librosa.feature.melspectrogram(
        y=samples, sr=SAMPLE_RATE, n_fft=512, win_length=400, hop_length=hop, n_mels=MEL_BINS, fmax=SAMPLE_RATE / 2
    )
    decibels = librosa.power_to_db(power, ref=np.max, top_db=DYNAMIC_RANGE_DB)  # from −range to 0
    gray = ((decibels / DYNAMIC_RANGE_DB + 1) * 255).round().clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(gray[::-1]).save(file, "WEBP", quality=WEBP_QUALITY, method=4)
    return _data_uri("image/webp", file.getvalue())


def envelope(waveform: Tensor, columns: int) -> list[int]:
    """Peaks of a waveform, [S], in so many equal stretches, in percent of the loudest; fewer where S is smaller."""
    samples = np.abs(waveform.numpy())
    columns = min(columns, len(samples))
    peaks = np.maximum.reduceat(samples, np.arange(columns) * len(samples) // columns) if columns else samples
    return [round(100 * float(peak)) for peak in peaks / max(float(peaks.max(initial=0.0)), 1e-9)]


def _data_uri(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
