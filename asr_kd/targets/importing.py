"""Import of hypotheses of other systems, 1-best or n-best, matched to the utterances of a manifest."""

import hashlib
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from asr_kd.config import Settings
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import Exclusion
from asr_kd.errors import TargetsError, examples
from asr_kd.files import json_lines, sha256_of
from asr_kd.scoring.wer import score
from asr_kd.targets.hypotheses import (
    HYPOTHESES_INDEX,
    HypothesesInfo,
    HypothesesSource,
    TextHypothesis,
    distinct,
    hypothesis_rows,
)
from asr_kd.targets.hypothesis_formats import Form, ImportedHypothesis, form_of, read_hypotheses
from asr_kd.targets.pseudo_label_filters import FilterReport
from asr_kd.targets.pseudo_labelling import (
    LabelSettings,
    PseudoLabelled,
    ScoreReadings,
    make_pseudo_labels,
    read_out,
)
from asr_kd.targets.shard_manifest import QUARANTINE, ShardEntry, quarantine_lines
from asr_kd.targets.sharding import manifest_sha256
from asr_kd.targets.storage import Storage, open_storage
from asr_kd.teachers.whisper_transcriber import TimedSegment, Transcription, combine
from asr_kd.text.normalize import Normalizer, normalize
from asr_kd.text.vocabulary import Vocabulary

SHARD = "shard-00000.jsonl"
CROSSED = "a segment, or word, of the recording reaches over the utterance's border"


def import_hypotheses(
    source: Path,
    utterances: Sequence[Utterance],
    folder: Path | str,
    normalizer: Normalizer,
    form: Form | None = None,
    min_coverage: float = 0.95,
    settings: LabelSettings | None = None,
    vocabulary: Vocabulary | None = None,
    score_readings: ScoreReadings | None = None,
) -> list[str]:
    """Import another system's hypotheses of a manifest's utterances; return the lines of a report.

    A name is an utterance's id, or else its audio file without folder and suffix, where one utterance alone has it.
    Where a long recording was cut into several utterances, the times of its segments or words assign them. Readings and
    filters are those of pseudo-labels. Utterances without hypotheses, and names without utterance, are listed in
    quarantine.jsonl.

    Args:
        source: a file or, of Whisper, a folder.
        folder: where to put them, a path or a URL; an earlier import there is replaced.
        min_coverage: share of the utterances that must have hypotheses.
        vocabulary: what a text must be spelled in, and CTC must emit in the audio; None: any letters and length.
        score_readings: a CTC model's score of readings; None takes the most usual reading.

    Raises:
        TargetsError: the source cannot be read, its names do not fit the manifest, too much is filtered out, or the
            folder holds something else.
    """
    settings = settings or LabelSettings()
    storage = _storage_for(folder, "imported")
    imported = read_hypotheses(source, form or form_of(source))
    found, unknown, crossed = _match(imported, utterances)
    _check_coverage(len(found), crossed, utterances, imported, source, min_coverage)
    with_words = {id_: [each for each in item.hypotheses if each.text.strip()] for id_, item in found.items()}
    best = {id_: replace(found[id_].measures, text=each[0].text) for id_, each in with_words.items() if each}
    labelled = PseudoLabelled({}, FilterReport(()), frozenset())
    if best:
        labelled = make_pseudo_labels(best, utterances, settings, normalizer, vocabulary, None, score_readings)
    texts_of_corpus = labelled.own_transcripts
    texts = {id_: [TextHypothesis(labelled.texts[id_])] for id_ in texts_of_corpus}
    for utterance in utterances:
        if utterance.id not in found or utterance.id in labelled.report.removed or utterance.id in texts_of_corpus:
            continue
        texts[utterance.id] = []
        if utterance.id in best:
            first, *others = with_words[utterance.id]
            further = [TextHypothesis(read_out(utterance, text, settings, normalizer), value) for text, value in others]
            texts[utterance.id] = distinct([TextHypothesis(labelled.texts[utterance.id], first.score), *further])
    removed = labelled.report.removed
    missing = [utterance for utterance in utterances if utterance.id not in found and utterance.id not in texts]
    left_out = [Exclusion.of(u, CROSSED if u.id in crossed else "no hypothesis was imported") for u in missing]
    left_out += [Exclusion.of(u, f"filtered out: {removed[u.id]}") for u in utterances if u.id in removed]
    left_out += [Exclusion(item.name, Path(item.where), "not in the manifest") for item in unknown]
    content = sha256_of([(item.name, item.hypotheses) for item in sorted(imported, key=lambda item: item.name)])
    origin = HypothesesSource(kind="imported", name=source.name, sha256=content)
    _store(storage, texts, left_out, utterances, origin, normalizer, settings)
    count, share = sum(map(len, texts.values())), 100 * len(found) / max(len(utterances), 1)
    lines = [f"{storage}: {count} hypotheses for {len(found)} of {len(utterances)} utterances ({share:.1f} %)"]
    without_words = sum(not hypotheses for hypotheses in texts.values())
    if without_words:
        lines.append(f"{without_words} of these have no word in any hypothesis: they train no student")
    if unknown:
        lines.append(f"{len(unknown)} names are not in the manifest: {examples([item.name for item in unknown])}")
    if removed:
        lines += labelled.report.lines()
    return lines + _compare(texts, utterances, normalizer)


def _match(
    imported: Sequence[ImportedHypothesis], utterances: Sequence[Utterance]
) -> tuple[dict[str, ImportedHypothesis], list[ImportedHypothesis], set[str]]:
    """Hypotheses by utterance, those that belong to none, and utterances over whose borders segments reach."""
    by_stem: dict[str, list[str]] = {}
    by_id = {utterance.id: utterance for utterance in utterances}
    for utterance in utterances:
        by_stem.setdefault(utterance.audio.stem, []).append(utterance.id)
    found: dict[str, ImportedHypothesis] = {}
    unknown: list[ImportedHypothesis] = []
    crossed: set[str] = set()
    for item in imported:
        meant = [item.name] if item.name in by_id else by_stem.get(item.name, [])
        if not meant:
            unknown.append(item)
            continue
        pieces = [by_id[id_] for id_ in meant]
        if len(meant) > 1 and item.segments and len({piece.audio for piece in pieces}) == 1:
            texts, over = transcripts_of_pieces(item.segments, pieces)
            crossed |= over
            read = {
                id_: ImportedHypothesis(id_, item.where, (TextHypothesis(each.text),), each)
                for id_, each in texts.items()
            }
        elif len(meant) == 1:
            read = {meant[0]: item}
        else:
            raise _ambiguous(item, meant)
        twice = [id_ for id_ in read if id_ in found]
        if twice:
            raise _ambiguous(item, [twice[0], found[twice[0]].where])
        found |= read
    return found, unknown, crossed


def _ambiguous(item: ImportedHypothesis, others: Sequence[str]) -> TargetsError:
    return TargetsError(
        f"{item.name!r} may mean several utterances or stands twice ({examples(others)})",
        where=item.where,
        expected="one utterance for each name",
        remedy="Use JSON Lines with the utterances' ids",
    )


def _check_coverage(
    found: int,
    crossed: Collection[str],
    utterances: Sequence[Utterance],
    imported: Sequence[ImportedHypothesis],
    source: Path,
    least: float,
) -> None:
    if utterances and found and found >= least * len(utterances):
        return
    names = ", ".join(item.name for item in imported[:3])
    ids = ", ".join(utterance.id for utterance in utterances[:3])
    raise TargetsError(
        f"has hypotheses for {found} of {len(utterances)} utterances; its names are like {names}, the manifest's ids "
        f"like {ids or 'nothing: it is empty'}",
        where=source,
        expected=f"at least {100 * least:g} % (--min-coverage)",
        remedy="Correct the names, or allow less with --min-coverage"
        if not crossed
        else f"Segments reach over the borders of {len(crossed)} utterances: transcribe with times of words, or allow "
        "less with --min-coverage",
    )


def store_labels(
    folder: Path | str,
    texts: Mapping[str, str],
    utterances: Sequence[Utterance],
    source: str,
    source_sha256: str,
    normalizer: Normalizer,
    settings: Settings,
) -> None:
    """Store pseudo-labels, one text an utterance, as hypotheses that students read; an earlier result is replaced.

    Utterances without a label are listed in quarantine.jsonl. `texts` are under the normalizer, by utterance id;
    `source` names the model.

    Raises:
        TargetsError: the folder holds hypotheses of another kind, or cannot be written.
    """
    storage = _storage_for(folder, "pseudo-labels")
    left_out = [Exclusion.of(u, "no pseudo-label passed the filters") for u in utterances if u.id not in texts]
    origin = HypothesesSource(kind="pseudo-labels", name=source, sha256=source_sha256)
    hypotheses = {id_: [TextHypothesis(text)] for id_, text in texts.items()}
    _store(storage, hypotheses, left_out, utterances, origin, normalizer, settings)


def _storage_for(folder: Path | str, kind: str) -> Storage:
    """Storage of hypotheses; those of another kind are not replaced."""
    storage = open_storage(folder)
    found = HypothesesInfo.read(storage).source.kind if HYPOTHESES_INDEX in storage.sizes() else kind
    if found != kind:
        raise TargetsError(
            f"holds hypotheses of another kind: {found}",
            where=str(storage),
            expected="another folder",
            remedy="Choose another --into",
        )
    return storage


def _store(
    storage: Storage,
    texts: Mapping[str, Sequence[TextHypothesis]],
    left_out: Sequence[Exclusion],
    utterances: Sequence[Utterance],
    source: HypothesesSource,
    normalizer: Normalizer,
    settings: Settings,
) -> None:
    content = json_lines(hypothesis_rows(texts, utterances)).encode()
    shard = ShardEntry(file=SHARD, sha256=hashlib.sha256(content).hexdigest(), utterances=len(texts))
    info = HypothesesInfo(
        source=source,
        normalizer=normalizer,
        manifest_sha256=manifest_sha256(utterances),
        settings=settings.model_dump(mode="json"),
        planned_shards=1,
        shards=(shard,),
    )
    storage.register((HYPOTHESES_INDEX, SHARD, QUARANTINE))
    storage.write(SHARD, content)
    storage.write(QUARANTINE, quarantine_lines(left_out))
    storage.write(info.index, info.to_bytes())


def _compare(
    texts: Mapping[str, Sequence[TextHypothesis]], utterances: Sequence[Utterance], normalizer: Normalizer
) -> list[str]:
    """The best hypotheses against the transcripts there are, in a line: a wrong file or normalizer shows at once."""
    references = {u.id: normalize(u.text, normalizer) for u in utterances if u.text and u.id in texts}
    if not any(text.strip() for text in references.values()):
        return []
    scored = score(references, {id_: texts[id_][0].text if texts[id_] else "" for id_ in references}, "none")
    return [f"WER of the best against {len(scored.utterances)} transcripts: {100 * scored.wer:.1f} %"]


TOLERANCE_SECONDS = 0.3
"""How far a segment may reach into the next piece: recognizers place the ends of words about so exactly."""


def transcripts_of_pieces(
    segments: Sequence[TimedSegment], pieces: Sequence[Utterance]
) -> tuple[dict[str, Transcription], set[str]]:
    """Join the segments, or words where these have times, that lie in each piece of one recording.

    Returns:
        Piece id → its transcription, empty text for a piece without a segment; and the ids of pieces that are left out,
        because a segment reaches over their border by more than 0.3 s: which words lie where is then not known.
    """
    inside: dict[str, list[TimedSegment]] = {piece.id: [] for piece in pieces}
    crossed: set[str] = set()
    ordered = sorted(pieces, key=lambda piece: piece.start)
    starts = [piece.start for piece in ordered]
    longest = max((piece.duration for piece in pieces), default=0.0)
    for segment in segments:
        # No others can overlap it: a day of audio may have thousands of pieces and a hundred thousand words.
        near = ordered[bisect_left(starts, segment.start - longest) : bisect_left(starts, segment.end)]
        overlaps = {
            piece.id: min(segment.end, piece.start + piece.duration) - max(segment.start, piece.start) for piece in near
        }
        # A short word belongs to the piece that holds more than half of it.
        half = max(segment.end - segment.start, 0.02) / 2 - 1e-9
        touched = [id_ for id_, seconds in overlaps.items() if seconds > min(TOLERANCE_SECONDS, half)]
        if len(touched) > 1:
            crossed.update(touched)
        elif touched:
            inside[touched[0]].append(segment)
    texts = {
        id_: combine([replace(each, text=f" {each.text.strip()}") for each in found])
        for id_, found in inside.items()
        if id_ not in crossed
    }
    return texts, crossed
