"""What distillation brought, as something to read: pairs of students, and teachers that this run did not train.

Works on the plain data of `summary`. Knows nothing of how numbers were measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asr_kd.evaluation.cells import UNKNOWN, escape, interval, millions, pipe_table, plain

Plain = Mapping[str, Any]

SHORT_HASH = 12
_DEFAULT = {"distilled": "student_kd", "baseline": "student_hard", "teacher": "teacher"}
_GAP = ("gap_recovered", "gap_recovered_low", "gap_recovered_high", "gap_recovered_reason")
_PAIRS = ("With KD", "Without", "Teacher", "Gap recovered", "WER with minus without, points")


def comparisons_of(found: Plain) -> list[Plain]:
    """The pairs of a test set; a report from before there could be several has one at most."""
    if "comparisons" in found:
        return list(found["comparisons"])
    if found["kd_minus_hard"] is None:
        return []
    return [{**_DEFAULT, **{key: found[key] for key in _GAP}, "difference": found["kd_minus_hard"]}]


def gap(pair: Plain) -> str:
    """The gap that a pair recovered, with its interval, or why there is none."""
    if pair["gap_recovered"] is None:
        return f"undefined ({pair['gap_recovered_reason']})"
    low, high = pair["gap_recovered_low"], pair["gap_recovered_high"]
    return f"{100 * pair['gap_recovered']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def gap_cell(found: Plain, key: str) -> str:
    """What the system with this key recovered; empty for one that learned from no teacher."""
    own = [pair for pair in comparisons_of(found) if pair["distilled"] == key]
    if not own:
        return ""
    return gap(own[0]) if own[0]["gap_recovered"] is not None else "undefined"


def pair_sections(found: Plain) -> list[str]:
    """The pairs of a test set in Markdown: a sentence for one, a table for several."""
    pairs = comparisons_of(found)
    if len(pairs) > 1:
        rows = [_pair_cells(found, pair) for pair in pairs]
        return [pipe_table(_PAIRS, rows, left=3), f"Differences are paired, resampled by {found['resampled_by']}."]
    if not pairs:
        return [f"Gap recovered: {escape(gap(found))}."] if _concerned(found) else []
    difference = pairs[0]["difference"]
    return [
        f"Gap recovered: {escape(gap(pairs[0]))}.",
        f"WER with KD minus WER without: {_points(difference)} points "
        f"{interval(difference['low'], difference['high'])} (paired, resampled by {found['resampled_by']}).",
    ]


def pair_lines(found: Plain) -> Iterator[str]:
    """The pairs of a test set for the terminal."""
    pairs = comparisons_of(found)
    if not pairs and not _concerned(found):
        return
    if len(pairs) < 2:
        yield f"Gap recovered: {gap(pairs[0] if pairs else found)}"
        return
    for pair in pairs:
        yield f"Gap recovered by {_name(found, pair['distilled'])}: {gap(pair)}"


def _concerned(found: Plain) -> bool:
    """Whether a set has anyone that a gap is asked of; systems from elsewhere have not."""
    return any(key in found for key in _DEFAULT.values())


def teacher_sections(summary: Plain) -> list[str]:
    """What must be said when a teacher comes from elsewhere; nothing when this run trained them all."""
    models, known = summary["models"], summary.get("teachers", {})
    external = [key for key, model in models.items() if model.get("external")]
    if not external:
        return []
    parts = ["## Distillation"]
    for key in external:
        parts.append(_teacher(models[key]))
        facts = known.get(models[key]["name"], {})
        if facts:
            parts.append("\n".join(f"- {escape(name)}: {escape(plain(value))}" for name, value in facts.items()))
    return [*parts, *_smaller(summary, external)]


def _teacher(model: Plain) -> str:
    source = f" (`{escape(model['source'])}`)" if model.get("source") else ""
    weights = f", weights {model['sha256'][:SHORT_HASH]}…" if model.get("sha256") else ""
    how = "as `evaluate.decoding` says," if model.get("decoding") else "greedily"
    return (
        f"The teacher {escape(model['name'])}{source}{weights} was not trained by this run: the report does not know "
        "what it heard, and it may have heard these recordings or learned their transcripts. It is decoded "
        f"{how} in its own {plain(model.get('symbols'))} symbols, a frame every {plain(model.get('frame_shift_ms'))} "
        "ms, and normalized and scored like every other system."
    )


def _smaller(summary: Plain, external: Sequence[str]) -> Iterator[str]:
    """How much smaller and faster each student is than the external teacher it learned from."""
    models = summary["models"]
    sets = {name: found for name, found in summary["test_sets"].items() if "skipped" not in found}
    pairs = {
        (pair["distilled"], pair["teacher"]): None
        for found in sets.values()
        for pair in comparisons_of(found)
        if pair["teacher"] in external
    }
    if not pairs:
        return
    header = ("Student", "Teacher", "Parameters", "Size", "RTF", *(f"Gap recovered, {name}" for name in sets))
    rows = [
        [
            models[student]["name"],
            models[teacher]["name"],
            f"{millions(models[student]['parameters'])}{_times(models, teacher, student, 'parameters')}",
            f"{_megabytes(models[student]['size_bytes'])}{_times(models, teacher, student, 'size_bytes')}",
            f"{_factor(models[student]['real_time_factor'])}{_times(models, teacher, student, 'real_time_factor')}",
            *(gap_cell(found, student) for found in sets.values()),
        ]
        for student, teacher in pairs
    ]
    yield pipe_table(header, rows, left=2)
    yield "In brackets: how many times less than the teacher."


def _times(models: Plain, teacher: str, student: str, what: str) -> str:
    more, less = models[teacher][what], models[student][what]
    return f" ({more / less:.3g} ×)" if more and less else ""


def _pair_cells(found: Plain, pair: Plain) -> list[str]:
    difference = pair["difference"]
    return [
        _name(found, pair["distilled"]),
        _name(found, pair["baseline"]),
        _name(found, pair["teacher"]) if pair["teacher"] is not None else UNKNOWN,
        gap(pair),
        f"{_points(difference)} {interval(difference['low'], difference['high'])}",
    ]


def _name(found: Plain, key: str) -> str:
    return str(found[key]["name"])


def _points(difference: Plain) -> str:
    return f"{100 * difference['wer']:+.2f}"


def _megabytes(size: int | None) -> str:
    return UNKNOWN if size is None else f"{size / 1e6:.1f} MB"


def _factor(factor: float | None) -> str:
    return UNKNOWN if factor is None else f"{factor:.2g}"
