"""What a chosen utterance sounds and looks like, and what each system thought of it frame by frame.

Gathered while the systems are open; the page shows it. Knows nothing of pages.

Shapes: S samples, T frames, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from asr_kd.audio import SAMPLE_RATE
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.evaluation.hearing import hearing_of
from asr_kd.evaluation.report.cast import cast_of
from asr_kd.evaluation.report.loading import from_results
from asr_kd.evaluation.report.media import envelope, sound, spectrogram
from asr_kd.evaluation.report.views import choose, views
from asr_kd.evaluation.results import Results
from asr_kd.evaluation.settings import ReportSettings
from asr_kd.evaluation.summary import summarize
from asr_kd.evaluation.systems import System
from asr_kd.progress import SILENT, Progress

LEAST_PROBABILITY = 0.02
"""A token less likely in a frame is not drawn."""
ENVELOPE_COLUMNS = 400
LONGEST_SECONDS = 60.0
"""A longer utterance is shown with its words only."""


@dataclass(frozen=True, slots=True)
class TokenPosteriors:
    """Which tokens a system saw when, the blank left out."""

    shift_ms: float
    offset_ms: float
    """Centre of frame 0 after the start of the audio."""
    symbols: list[str]
    """Those that occur; `spikes` counts them from 0."""
    spikes: list[int]
    """Frame, symbol, probability in percent; again for the next one."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One utterance for eye and ear."""

    test_set: str
    id: str
    seconds: float
    envelope: list[int]
    spectrogram: str
    audio: str | None
    posteriors: Mapping[str, TokenPosteriors] = field(default_factory=dict)
    """By the systems' keys; without those that give no posteriors."""


def gather_evidence(
    results: Results,
    systems: Sequence[System],
    sets: Mapping[str, Sequence[Utterance]],
    settings: ReportSettings,
    progress: Progress = SILENT,
) -> list[Evidence]:
    """Look closely at the utterances that `views.choose` names, in its order.

    Args:
        results: of evaluating these systems on these sets.

    Raises:
        AudioError: a file that could be read before no longer can.
    """
    report = from_results(results, summarize(results))
    cast = cast_of(report)
    if cast is None or not settings.utterances:
        return []
    known = {(name, item.id): item for name, items in sets.items() for item in items}
    short = [view for view in views(report, cast) if known[view.test_set, view.id].duration <= LONGEST_SECONDS]
    found = []
    chosen = choose(short, cast, settings.utterances)
    for done, view in enumerate(chosen, start=1):
        waveform = read_utterance(known[view.test_set, view.id])
        found.append(look_at(view.test_set, view.id, waveform, systems, settings.audio))
        progress.update("look closely", done, len(chosen), "utterances")
    return found


def look_at(test_set: str, utterance_id: str, waveform: Tensor, systems: Sequence[System], audio: bool) -> Evidence:
    """One utterance, [S] at 16 kHz, through all systems that give posteriors."""
    seen = {system.key: token_posteriors(system, waveform) for system in systems}
    return Evidence(
        test_set,
        utterance_id,
        seconds=len(waveform) / SAMPLE_RATE,
        envelope=envelope(waveform, ENVELOPE_COLUMNS),
        spectrogram=spectrogram(waveform),
        audio=sound(waveform) if audio else None,
        posteriors={key: posteriors for key, posteriors in seen.items() if posteriors is not None},
    )


def token_posteriors(system: System, waveform: Tensor) -> TokenPosteriors | None:
    """What a system sees in an utterance, [S]; None for one that only writes text."""
    hearing = hearing_of(system)
    if hearing is None:
        return None
    probs = hearing.log_probs(waveform).softmax(-1)  # [T, V]
    probs[:, hearing.vocabulary.blank_id] = 0
    drawn = probs >= LEAST_PROBABILITY
    percent = (100 * probs[drawn]).round().int().tolist()
    symbols: dict[int, int] = {}
    spikes: list[int] = []
    for (frame, token), height in zip(drawn.nonzero().tolist(), percent, strict=True):
        spikes += [frame, symbols.setdefault(token, len(symbols)), height]
    names = [hearing.vocabulary.symbols[token] for token in symbols]
    return TokenPosteriors(hearing.grid.shift_ms, hearing.grid.offset_ms, names, spikes)
