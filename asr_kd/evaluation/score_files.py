"""Score references and hypotheses from files in the same way as an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asr_kd.config import user_path
from asr_kd.errors import EvaluationError, examples
from asr_kd.evaluation.comparison import Comparison, SeedRows, resolve_comparisons
from asr_kd.evaluation.report import Report
from asr_kd.evaluation.results import RunFacts, summarize
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.system import ROLES, Role, check_name, check_systems, file_stem, read_external
from asr_kd.evaluation.system_outputs import ReferenceSet, score_set
from asr_kd.files import atomic_folder
from asr_kd.scoring.transcripts import (
    TextForm,
    Transcripts,
    read_speakers,
    read_transcripts,
    write_transcripts,
)

PREFIX = "prefix"
"""As `speakers`: what stands before the first - or _ of an id, as in sclite's spu_id and LibriSpeech."""

_ROLES: dict[str, Role] = {name: role for role in ROLES for name in (role, file_stem(role))}
"""Names that imply a role: those of the recipes and of a report's files."""


def score_files(
    reference: Path,
    hypotheses: Sequence[tuple[str | None, Path]],
    settings: EvaluationSettings,
    speakers: str | None = None,
    comparisons: Sequence[Comparison] = (),
) -> Report:
    """Score hypotheses against references, system by system and pair by pair.

    Args:
        hypotheses: each file with its system's name; None takes the file's. A name with several files is one system of
            several training runs (seeds).
        speakers: a file such as Kaldi's utt2spk, or `prefix`; None: from the rows of the references.
        comparisons: pairs beside that of student-kd, student-hard and teacher; by names.

    Raises:
        EvaluationError: a file cannot be read, ids do not match, two systems of one name, or a name that cannot be
            one.
    """
    references = read_transcripts(user_path(reference), "reference")
    test_set = _stem(reference)
    check_name(test_set, "test set")
    rows = _rows(hypotheses)
    runs = {row: [name for name, _ in named] for row, named in rows.items()}
    systems = [
        read_external(name, path, _ROLES.get(name, "other") if len(named) == 1 else "other")
        for named in rows.values()
        for name, path in named
    ]
    check_systems(systems)
    ids = list(references.texts)
    for system in systems:
        _check_no_more(system.transcripts, ids)
    texts = {system.key: system.texts_of(test_set, ids) for system in systems}
    one_run = {row for row, names in runs.items() if len(names) == 1}
    pairs = resolve_comparisons(systems, [pair for pair in comparisons if set(pair.names) <= one_run])
    seconds = sum(references.seconds.values()) if len(references.seconds) == len(references.texts) else None
    reference_set = ReferenceSet(references.texts, _speakers(speakers, references), seconds)
    seeds = SeedRows(runs, _row_pairs(comparisons, runs))
    found = score_set(reference_set, texts, {system.key: system.name for system in systems}, pairs, settings, seeds)
    report = summarize(systems, {test_set: found}, settings, RunFacts())
    return replace(report, words={system.key: system.transcripts.words for system in systems})


def write_texts(report: Report, folder: Path, form: TextForm) -> None:
    """References and hypotheses in a form that other tools read: `folder/reference.FORM`, `folder/SYSTEM.FORM`.

    They are written as they were scored, after the normalizer; `ctm` holds the words with the times that the system
    gave them, and no references. What stood in `folder` is replaced.

    Raises:
        EvaluationError: an id or text that the form cannot represent, or `ctm` of a system without times.
        AsrKdError: the folder cannot be written.
    """
    ((_, rows),) = report.rows.items()
    suffix = "txt" if form == "kaldi" else form
    texts_of = {key: {row["id"]: row["hypothesis"] for row in own} for key, own in rows.items()}
    if form != "ctm":
        texts_of["reference"] = {row["id"]: row["reference"] for row in next(iter(rows.values()))}
    with atomic_folder(folder, guard=True) as partial:
        for key, texts in texts_of.items():
            write_transcripts(partial / f"{key}.{suffix}", form, texts, report.words[key] if form == "ctm" else None)


def _rows(hypotheses: Sequence[tuple[str | None, Path]]) -> dict[str, list[tuple[str, Path]]]:
    """A system's name → its runs, each with a name of its own where there are several."""
    files: dict[str, list[Path]] = {}
    for given, path in hypotheses:
        files.setdefault(given or _stem(path), []).append(path)
        if given is None and len(files[_stem(path)]) > 1:
            raise EvaluationError(
                f"{' and '.join(map(str, files[_stem(path)]))} are both called {_stem(path)!r}",
                expected="a name for each",
                remedy="Write NAME=FILE; the same NAME for several files makes them seeds of one system",
            )
    return {
        name: [(name if len(paths) == 1 else f"{name}-{number}", path) for number, path in enumerate(paths, start=1)]
        for name, paths in files.items()
    }


def _check_no_more(hypotheses: Transcripts, ids: Sequence[str]) -> None:
    unknown = sorted(hypotheses.texts.keys() - set(ids))
    if unknown:
        raise EvaluationError(
            f"{len(unknown)} of {len(hypotheses.texts)} hypotheses lack a reference ({examples(unknown)})",
            where=hypotheses.path,
            expected="the same utterance ids on both sides",
        )


def _speakers(given: str | None, references: Transcripts) -> dict[str, str]:
    """Utterance id → speaker; empty where not all are known."""
    ids = list(references.texts)
    if given is None:
        return dict(references.speakers) if len(references.speakers) == len(ids) else {}
    if given == PREFIX:
        return {utterance_id: utterance_id.replace("_", "-").split("-")[0] for utterance_id in ids}
    speakers = read_speakers(user_path(given))
    missing = [utterance_id for utterance_id in ids if utterance_id not in speakers]
    if missing:
        raise EvaluationError(
            f"names no speaker for {len(missing)} of {len(ids)} utterances ({examples(missing)})",
            where=given,
            expected="every utterance",
        )
    return {utterance_id: speakers[utterance_id] for utterance_id in ids}


def _row_pairs(stated: Sequence[Comparison], rows: Mapping[str, Any]) -> list[Comparison]:
    """The stated pairs, and the one that the names imply."""
    by_role = {_ROLES[name]: name for name in rows if name in _ROLES}
    pairs = list(stated)
    if {"student_kd", "student_hard"} <= by_role.keys():
        distilled, baseline = by_role["student_kd"], by_role["student_hard"]
        if all((pair.distilled, pair.baseline) != (distilled, baseline) for pair in pairs):
            pairs.append(Comparison(distilled, baseline, by_role.get("teacher")))
    return pairs


def _stem(path: Path) -> str:
    return path.name.split(".")[0] or path.name


def named_file(given: str) -> tuple[str | None, Path]:
    """A file of hypotheses as a command line gives it, `NAME=FILE` or `FILE`; a name holds no folder.

    Raises:
        EvaluationError: nothing on one side of the `=`.
    """
    name, separator, path = given.partition("=")
    if not separator or "/" in name:
        return None, Path(given)
    if not name or not path:
        raise EvaluationError(f"{given!r}", expected="NAME=FILE, or FILE")
    return name, Path(path)


def named_pair(given: str) -> Comparison:
    """A pair of students as a command line gives it, `KD,HARD` or `KD,HARD,TEACHER`.

    Raises:
        EvaluationError: another number of names.
    """
    names = [name.strip() for name in given.split(",")]
    if len(names) not in (2, 3) or not all(names):
        raise EvaluationError(f"the pair {given!r}", expected="DISTILLED,BASELINE or DISTILLED,BASELINE,TEACHER")
    return Comparison(*names)
