"""The page's sections about what is measured beside errors: delay, agreement, context, conditions, seeds.

Each is there when results.json has its numbers. Knows plain data only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from asr_kd.evaluation.cells import UNKNOWN, interval, millions, percent
from asr_kd.evaluation.distillation import gap
from asr_kd.evaluation.report.blocks import Block, Figure, Section, Table, heat, system_cell
from asr_kd.evaluation.report.charts import Look, Point, against, steps
from asr_kd.evaluation.report.loading import Report
from asr_kd.evaluation.report.main_systems import MainSystems, order_of_sets
from asr_kd.models.subsampling import FRAME_SHIFT_MS

Plain = Mapping[str, Any]
Looks = Mapping[str, Look]
Cells = list[str | Markup]

_PARTS = ("tokens", "first_token", "end_of_speech")
_DELAY = (
    "System", "Chunk", "Emission, ms", "first token", "end of speech", "Available, ms", "first token", "end of speech"
)  # fmt: skip
_DELAY_INTRO = (
    "Median (and 90th percentile) over tokens that student and teacher both got right, against forced alignment with "
    "the teacher. Emission: until the frame in which the student writes the token. Available: until the audio that "
    "must have been heard for that frame, the end of its chunk; computing comes on top."
)
_FRAMES = (
    "System", "WER to teacher, %", "Only teacher right", "only student", "Frame KL", "Same token, %", "not blank",
    "at best shift",
)  # fmt: skip
_STEADY = (
    "System",
    "Shown words revised, per word",
    "last word written on",
    "Words added in silence",
    "in a quiet room",
)
_COST = ("System", "MACs a second", "fp32", "int8", "RTF", "streamed", "Memory", "Chunk p50", "p99", "Joules an hour")


def latency_section(report: Report, looks: Looks, main: MainSystems) -> Section | None:
    """How late systems speak, how steadily, and what they make of silence."""
    figures, blocks = [], []
    for name in order_of_sets(report, main):
        found, first = report.sets[name], name == main.test_set
        delays = {key: found[key]["delay"] for key in report.systems(name) if found[key].get("delay")}
        if not delays:
            continue
        if first:
            figures = _delay_figures(name, found, looks, delays)
        tables = [Table(_DELAY, [_delay_cells(looks[key], delay) for key, delay in delays.items()])]
        tables += _steady_tables(report, name, looks)
        blocks.append(Block(title=name if first else "", tables=tables, fold="" if first else f"Tables of {name}"))
    if not blocks:
        return None
    blocks = [Block(figures=figures), *blocks] if figures else blocks
    return Section("delay", "How late they speak", "Delay", _DELAY_INTRO, blocks)


def agreement_section(report: Report, looks: Looks, main: MainSystems) -> Section | None:
    """How much a student is like its teacher."""
    tables = []
    for name in order_of_sets(report, main):
        found = report.sets[name].get("agreement", {})
        rows = [_agreement_cells(looks[key], row) for key, row in found.items() if key in looks]
        if rows:
            tables.append(Table(_FRAMES, rows, name))
    if not tables:
        return None
    intro = (
        "The student's words scored against the teacher's, words that only one of them gets right, and their "
        "posteriors frame by frame (KL in nats). Most frames are blank and agree easily, so those in which the teacher "
        "says something are counted apart."
    )
    return Section("agreement", "How alike student and teacher are", "Agreement", intro, [Block(tables=tables)])


def cost_table(report: Report, looks: Looks) -> Table | None:
    """What running each system takes, where that was measured."""
    costs = {key: model["cost"] for key, model in report.summary["models"].items() if model.get("cost")}
    if not costs:
        return None
    return Table(_COST, [_cost_cells(looks[key], cost) for key, cost in costs.items()], "One thread of this machine")


def matrix_section(report: Report, looks: Looks, main: MainSystems) -> Section | None:
    """WER by chunk and left context."""
    matrix: Mapping[str, Sequence[Plain]] = report.summary.get("matrix", {})
    figures, tables = [], []
    for name in order_of_sets(report, main):
        found = {key: here for key, rows in matrix.items() if (here := [row for row in rows if row["set"] == name])}
        figures += _matrix_figures(looks, name, found)
        tables += [_matrix_table(f"{looks[key].name} on {name}: WER %", rows) for key, rows in found.items()]
    if not tables:
        return None
    intro = "One model, asked for shorter and longer chunks. * marks contexts that it was not trained with."
    blocks = [Block(figures=figures), Block(tables=tables, side_by_side=True)]
    return Section("matrix", "What answering sooner costs", "Chunks", intro, blocks, key=True)


def robustness_section(report: Report, looks: Looks, main: MainSystems) -> Section | None:
    """WER when the same recordings come through noise, rooms and lines."""
    found = report.summary.get("robustness", {})
    tables = []
    there = {row["set"] for rows in found.values() for row in rows}
    for name in (name for name in order_of_sets(report, main) if name in there):
        wer = {key: {row["condition"]: row["wer"] for row in rows if row["set"] == name} for key, rows in found.items()}
        conditions = list(dict.fromkeys(condition for rows in wer.values() for condition in rows))
        values = [[wer[key].get(condition) for key in wer] for condition in conditions]
        cells: list[Cells] = [
            [condition, *(UNKNOWN if value is None else percent(value) for value in row)]
            for condition, row in zip(conditions, values, strict=True)
        ]
        tables.append(Table(("Condition", *(looks[key].name for key in wer)), cells, name, 1, "heat", heat(values)))
    if not tables:
        return None
    intro = "WER % on the same recordings, disturbed in the same way for every system."
    return Section(
        "robustness", "When conditions are worse", "Robustness", intro, [Block(tables=tables, side_by_side=True)]
    )


def seed_section(report: Report) -> Section | None:
    """Several training runs of one system as one row."""
    rows = [(name, row) for name, found in report.summary.get("seeds", {}).items() for row in found]
    if not rows:
        return None
    cells: list[Cells] = [
        [
            name,
            str(row["set"]),
            ", ".join(percent(rate) for rate in row["rates"]),
            percent(row["mean"]),
            interval(row["low"], row["high"]),
            gap(row) if "gap_recovered" in row else "",
        ]
        for name, row in rows
    ]
    header = ("System", "Set", "WER % of each run", "Mean", "95 % interval", "Gap recovered")
    intro = "The interval holds both: other utterances and another training run."
    return Section("seeds", "Trained again", "Seeds", intro, [Block(tables=[Table(header, cells, left=2)])])


def _delay_figures(name: str, found: Plain, looks: Looks, delays: Mapping[str, Plain]) -> list[Figure]:
    figures = []
    for what, note in (("emission", "as the model chooses"), ("available", "with the wait for the end of a chunk")):
        costs = {key: (delay[what] or {}).get("tokens", {}).get("median_ms") for key, delay in delays.items()}
        points = [
            Point(looks[key], found[key]["wer"], found[key]["wer_low"], found[key]["wer_high"], cost)
            for key, cost in costs.items()
            if cost is not None
        ]
        if points:
            axis = "median delay of a token, milliseconds"
            picture = against(points, axis, f"WER on {name} against {axis}, {what}", logarithm=False)
            figures.append(Figure(what.capitalize(), picture, f"WER on {name}; {note}"))
    return figures


def _matrix_figures(looks: Looks, name: str, found: Mapping[str, Sequence[Plain]]) -> list[Figure]:
    """WER against the chunk, at the longest left context; nothing for a single chunk size."""
    longest = max((row["left_context_frames"] for rows in found.values() for row in rows), default=0)
    series = [
        (looks[key], {row["chunk_ms"]: row["wer"] for row in rows if row["left_context_frames"] == longest})
        for key, rows in found.items()
    ]
    if len({chunk for _, rates in series for chunk in rates}) < 2:
        return []
    picture = steps(series, "milliseconds of audio a chunk", f"WER on {name} against the chunk")
    return [Figure(name, picture, f"WER, looking back {longest * FRAME_SHIFT_MS} ms")]


def _matrix_table(caption: str, rows: Sequence[Plain]) -> Table:
    lefts = sorted({row["left_context_ms"] for row in rows})
    chunks = sorted({row["chunk_ms"] for row in rows})
    by_place = {(row["chunk_ms"], row["left_context_ms"]): row for row in rows}
    values = [
        [by_place[chunk, left]["wer"] if (chunk, left) in by_place else None for left in lefts] for chunk in chunks
    ]
    cells: list[Cells] = [[f"{chunk} ms", *(_wer(by_place.get((chunk, left))) for left in lefts)] for chunk in chunks]
    header = ("Chunk", *(f"back {left} ms" for left in lefts))
    return Table(header, cells, caption, 1, "heat", heat(values))


def _steady_tables(report: Report, name: str, looks: Looks) -> list[Table]:
    found = report.sets[name]
    rows = [
        _steady_cells(looks[key], found[key])
        for key in report.systems(name)
        if found[key].get("stability") or found[key].get("trailing_silence")
    ]
    return (
        [Table(_STEADY, rows, "Does what was shown stay? And what does silence after the speech add?")] if rows else []
    )


def _delay_cells(look: Look, delay: Plain) -> Cells:
    available = delay["available"]
    return [
        system_cell(look),
        f"{delay['chunk_frames'] * FRAME_SHIFT_MS} ms" if delay["chunk_frames"] else "whole",
        *(_median(delay["emission"][part]) for part in _PARTS),
        *(_median(available[part]) if available else UNKNOWN for part in _PARTS),
    ]


def _agreement_cells(look: Look, row: Plain) -> Cells:
    best = row.get("at_best_shift") or {}
    return [
        system_cell(look),
        _or_unknown(row.get("wer_against_teacher"), percent),
        _or_unknown(row.get("only_teacher_words"), str),
        _or_unknown(row.get("only_student_words"), str),
        _or_unknown(row.get("frame_kl"), "{:.3f}".format),
        _or_unknown(row.get("argmax_agreement"), percent),
        _or_unknown(row.get("spoken_agreement"), percent),
        f"{percent(best['spoken_agreement'])} ({best['shift_ms']} ms)" if best.get("spoken_agreement") else UNKNOWN,
    ]


def _steady_cells(look: Look, row: Plain) -> Cells:
    stability, silence = row.get("stability") or {}, row.get("trailing_silence") or {}
    return [
        system_cell(look),
        _or_unknown(stability.get("revised_per_word"), "{:.3f}".format),
        _or_unknown(stability.get("grown_per_word"), "{:.2f}".format),
        *(_or_unknown(silence.get(kind, {}).get("extra_words"), str) for kind in ("digital", "room")),
    ]


def _cost_cells(look: Look, cost: Plain) -> Cells:
    chunk, size = cost.get("chunk_ms") or {}, cost["size_bytes"]
    megabytes = "{:.1f} MB".format
    return [
        system_cell(look),
        _or_unknown(cost["macs_per_second"], lambda count: millions(int(count))),
        _or_unknown(size["fp32"], lambda count: megabytes(count / 1e6)),
        _or_unknown(size["int8"], lambda count: megabytes(count / 1e6)),
        _or_unknown(cost["rtf"]["whole"], "{:.2g}".format),
        _or_unknown(cost["rtf"]["streamed"], "{:.2g}".format),
        _or_unknown(cost["rss_bytes"], lambda count: megabytes(count / 1e6)),
        _or_unknown(chunk.get("p50"), "{:.1f} ms".format),
        _or_unknown(chunk.get("p99"), "{:.1f} ms".format),
        _or_unknown(cost["energy_j_per_hour"], "{:.0f}".format) if not cost["energy_reason"] else "not readable here",
    ]


def _or_unknown(value: Any, show: Callable[[Any], str]) -> str:
    return UNKNOWN if value is None else show(value)


def _median(part: Plain) -> str:
    return UNKNOWN if part["median_ms"] is None else f"{part['median_ms']:.0f} ({part['p90_ms']:.0f})".replace("-", "−")


def _wer(row: Plain | None) -> str:
    return UNKNOWN if row is None else percent(row["wer"]) + ("" if row["trained"] else " *")
