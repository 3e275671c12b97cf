"""Audio, spectrogram and token posteriors of the utterances that the page shows in full.

They are computed while the systems are open.

Shapes: S samples, T frames, V vocabulary.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import soundfile
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.evaluation.open_systems import posteriors_of
from asr_kd.evaluation.report.loading import Report, choose
from asr_kd.evaluation.settings import ReportSettings
from asr_kd.evaluation.system import System
from asr_kd.progress import SILENT, Progress

LEAST_PROBABILITY = 0.02
"""A token less likely in a frame is not drawn."""
ENVELOPE_COLUMNS = 400
LONGEST_SECONDS = 60.0
"""A longer utterance is shown with its words only."""


Evidence = dict[str, Any]
"""Of one utterance: `test_set`, `id`, `seconds`, `envelope`, `spectrogram`, `audio` (None: it cannot be played), and
`posteriors` of each system that gives them, by its key."""


def gather_evidence(
    report: Report,
    systems: Sequence[System],
    sets: Mapping[str, Sequence[Utterance]],
    settings: ReportSettings,
    progress: Progress = SILENT,
) -> list[Evidence]:
    """Collect the evidence of the utterances that `loading.choose` selects, in its order.

    Raises:
        AudioError: a file that could be read before no longer can.
    """
    if not report.sets or not settings.utterances:
        return []
    known = {(name, item.id): item for name, items in sets.items() for item in items}
    short = [view for view in report.views if known[view.test_set, view.id].duration <= LONGEST_SECONDS]
    found = []
    chosen = choose(short, report.main, settings.utterances)
    for done, view in enumerate(chosen, start=1):
        waveform = read_utterance(known[view.test_set, view.id])
        found.append(evidence_of(view.test_set, view.id, waveform, systems, settings.audio))
        progress.update("audio and posteriors", done, len(chosen), "utterances")
    return found


def evidence_of(test_set: str, utterance_id: str, waveform: Tensor, systems: Sequence[System], audio: bool) -> Evidence:
    """One utterance, [S] at 16 kHz, through all systems that give posteriors."""
    posteriors = {system.key: token_posteriors(system, waveform) for system in systems}
    return {
        "test_set": test_set,
        "id": utterance_id,
        "seconds": round(len(waveform) / SAMPLE_RATE, 3),
        "envelope": envelope(waveform, ENVELOPE_COLUMNS),
        "spectrogram": spectrogram(waveform),
        "audio": sound(waveform) if audio else None,
        "posteriors": {key: found for key, found in posteriors.items() if found is not None},
    }


def token_posteriors(system: System, waveform: Tensor) -> dict[str, Any] | None:
    """Probabilities of a system's tokens over an utterance, [S], without the blank; None for a system of text only.

    Returns:
        `shift_ms` from frame to frame, `offset_ms` of the centre of frame 0, `symbols` that occur, and `spikes`, flat
        triples of frame, index of the symbol, and probability in percent.
    """
    source = posteriors_of(system)
    if source is None:
        return None
    probs = source.log_probs(waveform).softmax(-1)  # [T, V]
    probs[:, source.vocabulary.blank_id] = 0
    drawn = probs >= LEAST_PROBABILITY
    frames, tokens = (column.tolist() for column in drawn.nonzero(as_tuple=True))
    places = {token: place for place, token in enumerate(dict.fromkeys(tokens))}
    percent = (100 * probs[drawn]).round().int().tolist()
    return {
        "shift_ms": source.grid.shift_ms,
        "offset_ms": source.grid.offset_ms,
        "symbols": [source.vocabulary.symbols[token] for token in places],
        "spikes": [
            number
            for frame, token, height in zip(frames, tokens, percent, strict=True)
            for number in (frame, places[token], height)
        ],
    }


MEL_BINS = 80
SHORTEST_HOP_SAMPLES = SAMPLE_RATE // 100
MOST_COLUMNS = 1_500
"""Of a spectrogram: 15 s at 10 ms; longer utterances take longer steps."""
DYNAMIC_RANGE_DB = 65.0
WEBP_QUALITY = 45

_FORMATS = (("MP3", "MPEG_LAYER_III", "audio/mpeg"), ("FLAC", "PCM_16", "audio/flac"))
"""Formats that every browser plays, the smaller first."""
_MP3_COMPRESSION = 0.75  # 0 best, 1 smallest


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
