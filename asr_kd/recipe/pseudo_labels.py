"""Pseudo-labels of a recipe's training set or a manifest: transcribed with Whisper, filtered, stored.

The folder of `asr-kd pseudo-label` holds the hypotheses that students read (`students.NAME.hypotheses`), the raw
transcripts of each model below `transcripts/`, and `filters.json` with the yield of every filter.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.features.fbank import SAMPLE_RATE, num_frames
from asr_kd.files import claim_files
from asr_kd.models.subsampling import output_len
from asr_kd.progress import Progress
from asr_kd.recipe.hypotheses import open_target
from asr_kd.targets.hypotheses import HYPOTHESES_INDEX
from asr_kd.targets.importing import SHARD, store_labels
from asr_kd.targets.pseudo_labelling import (
    PREFIX,
    Alphabet,
    PseudoLabelled,
    PseudoLabelSettings,
    ScoreReadings,
    ctc_reading_scorer,
    make_pseudo_labels,
)
from asr_kd.targets.shard_manifest import QUARANTINE
from asr_kd.targets.sharded_extraction import ShardReport
from asr_kd.targets.sharding import EVERYTHING, Share
from asr_kd.targets.transcripts import read_transcripts, transcribe_manifest
from asr_kd.teachers.opening import open_teacher_source
from asr_kd.teachers.settings import TeacherSource
from asr_kd.teachers.whisper_transcriber import TranscriberSettings, open_transcriber
from asr_kd.text.normalize import Normalizer
from asr_kd.text.vocabulary import Vocabulary, min_ctc_frames

FILTERS = "filters.json"


def pseudo_label(
    target: Path,
    settings: PseudoLabelSettings,
    folder: Path,
    progress: Progress,
    normalizer: Normalizer | None = None,
    share: Share = EVERYTHING,
    should_stop: Callable[[], bool] = lambda: False,
    threads: int = 1,
    device: str = "cpu",
) -> list[str]:
    """Transcribe, choose readings, filter, and store; return the report's lines.

    Args:
        target: a recipe whose corpus is prepared, or a manifest.
        settings: model, readings, filters.
        folder: where to put everything.
        progress: for messages and progress bars.
        normalizer: for a manifest; a recipe has its own.
        share: the part of the transcribing that this process does; labels are made when all shares are done.
        should_stop: called between utterances.
        threads: of CTranslate2.
        device: cpu or cuda.

    Raises:
        TargetsError: too much is filtered out, or a folder holds something else.
        StoppedEarly: `should_stop` returned true; finished shards are kept.
    """
    utterances, written, vocabulary = open_target(target, normalizer)
    transcripts = folder / "transcripts"
    report = transcribe_with(settings, utterances, transcripts, progress, share, should_stop, threads, device)
    if not report.complete:
        return [f"{report.share_line()}. Run the command without --share when all shares are done"]
    return label_from(settings, utterances, transcripts, folder, written, vocabulary)


def transcribe_with(
    settings: PseudoLabelSettings,
    utterances: Sequence[Utterance],
    folder: Path,
    progress: Progress,
    share: Share = EVERYTHING,
    should_stop: Callable[[], bool] = lambda: False,
    threads: int = 1,
    device: str = "cpu",
) -> ShardReport:
    """Transcribe with each model that the settings name, into `folder`/1 and `folder`/2; the report of the last one.

    Raises:
        TargetsError: a folder holds transcripts of another model, manifest or decoding.
        StoppedEarly: `should_stop` returned true; finished shards are kept.
    """
    for number, source in enumerate(filter(None, (settings.source, settings.agree_with)), start=1):
        transcriber = open_transcriber(
            TranscriberSettings(
                source.removeprefix(PREFIX), settings.language, settings.beam, settings.compute_type, threads, device
            )
        )
        report = transcribe_manifest(
            transcriber,
            utterances,
            folder / str(number),
            share,
            should_stop,
            lambda done, total, source=source: progress.update(source, done, total, "s of audio"),  # type: ignore[misc]
        )
        if not report.complete:
            break
    return report


def label_from(
    settings: PseudoLabelSettings,
    utterances: Sequence[Utterance],
    transcripts: Path,
    folder: Path,
    normalizer: Normalizer,
    vocabulary: Vocabulary | None,
) -> list[str]:
    """Choose readings, filter, and store the labels of finished transcripts; return the report's lines.

    Raises:
        TargetsError: too much is filtered out, transcripts are missing or damaged, or `folder` holds something else.
    """
    info, first = read_transcripts(transcripts / "1")
    second = read_transcripts(transcripts / "2")[1] if settings.agree_with is not None else None
    alphabet = Alphabet(normalizer, vocabulary, _fits_ctc, settings.language or "en")
    labelled = make_pseudo_labels(first, utterances, settings, alphabet, second, _scorer(settings, normalizer))
    claim_files(folder, (HYPOTHESES_INDEX, SHARD, QUARANTINE, FILTERS))
    store_labels(folder, labelled.texts, utterances, settings.source, info.model_sha256, normalizer, settings)
    (folder / FILTERS).write_text(_as_json(labelled), encoding="utf-8")
    return _lines(labelled, folder)


def _scorer(settings: PseudoLabelSettings, normalizer: Normalizer) -> ScoreReadings | None:
    if settings.reading_model is None:
        return None
    teacher = open_teacher_source(TeacherSource(source=settings.reading_model))
    return ctc_reading_scorer(teacher, normalizer, read_utterance)


def _fits_ctc(tokens: Sequence[int], utterance: Utterance) -> bool:
    return min_ctc_frames(tokens) <= output_len(num_frames(int(utterance.duration * SAMPLE_RATE)))


def _as_json(labelled: PseudoLabelled) -> str:
    content = {
        "steps": [asdict(step) for step in labelled.report.steps],
        "removed": dict(labelled.report.removed),
        "from_transcripts": labelled.from_transcripts,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _lines(labelled: PseudoLabelled, folder: Path) -> list[str]:
    lines = labelled.report.lines() if labelled.report.steps else []
    if labelled.from_transcripts:
        lines.append(f"{labelled.from_transcripts} utterances keep their own transcripts (transcript_share)")
    lines.append(f"{len(labelled.texts)} pseudo-labels: {folder}; name it in a student: hypotheses: {folder}")
    return lines
