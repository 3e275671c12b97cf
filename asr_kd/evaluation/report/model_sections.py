"""Sections of the report on the systems themselves: cost, distillation, training, pseudo-labels, and their settings."""

from collections.abc import Iterator
from functools import partial

from asr_kd.evaluation.cells import UNKNOWN, gap_of_system, megabytes, millions, optional, percent, plain, short_factor
from asr_kd.evaluation.report.document import (
    SYSTEM,
    Cell,
    Columns,
    CurveChart,
    Figure,
    Plain,
    Point,
    Section,
    SectionBlock,
    table,
)
from asr_kd.evaluation.report.error_sections import COSTS
from asr_kd.evaluation.report.loading import Report
from asr_kd.evaluation.system import FALLING_CURVE

SHORT_HASH = 12
_COST_NOTE = (
    "MACs/s: multiply-accumulates a second of speech; RTF and chunks: one thread, features and decoding included; "
    "Memory: largest resident size of a separate process, Python and torch included (before the model was opened)."
)
_FILTERS_NOTE = (
    "Filters in the order in which they are applied; each row is what is left after it. WER: of the labels against the "
    "corpus' own transcripts, where there are some; training does not use these."
)
_IN_OTHER_TABLES = frozenset(
    {"cost", "name", "role", "parameters", "size_bytes", "real_time_factor", "rtf_utterances", "rtf_threads", "device"}
    | {"streaming_real_time_factor", "external", "sha256", "hypotheses_sha256", "symbols", "frame_shift_ms"}
    | {FALLING_CURVE}
)
_COST_AXES = (
    ("size_bytes", 1e6, "Size", "megabytes of weights"),
    ("parameters", 1e6, "Parameters", "millions"),
    ("real_time_factor", 1, "Real-time factor", "seconds of computing a second of speech"),
    ("streaming_real_time_factor", 1, "Real-time factor of a stream", "the same, audio arriving in packets"),
    ("chunk_ms", 1, "Chunk", "milliseconds of audio a chunk"),
)
"""Entry of a model, unit, title and axis of each chart of WER against a cost."""


def _int8(size: Plain) -> str:
    return optional(size["int8"], megabytes) + ("*" if "estimate" in size["int8_of"] else "")


def _memory(cost: Plain) -> str:
    if cost["rss_bytes"] is None:
        return UNKNOWN
    return f"{cost['rss_bytes'] / 1e6:.0f} MB ({cost['rss_before_bytes'] / 1e6:.0f})"


_COST: Columns = (
    SYSTEM,
    ("Parameters", "parameters", millions),
    ("MACs/s", "macs_per_second", lambda count: f"{count / 1e6:.1f} M"),
    ("fp32", "size_bytes.fp32", megabytes),
    ("int8", "size_bytes", _int8),
    ("RTF", "rtf.whole", short_factor),
    ("streamed", "rtf.streamed", short_factor),
    ("Memory", "", _memory),
    ("Chunk p50", "chunk_ms.p50", "{:.1f} ms".format),
    ("p99", "chunk_ms.p99", "{:.1f} ms".format),
    ("J/hour", "energy_j_per_hour", "{:.1f}".format),
)
_FILTERS: Columns = (
    ("Filter", "name", str),
    ("Threshold", "threshold", "{:g}".format),
    ("Utterances", "kept", str),
    ("Hours", "hours", "{:.2f}".format),
    ("WER of the labels %", "wer", percent),
)


def cost_section(report: Report) -> Section:
    """Cost of every system, and WER of the main set against it."""
    models, name = report.summary["models"], report.main.test_set
    figures: dict[str, Figure] = {}
    for quantity, unit, title, axis in _COST_AXES:
        values = {key: model.get(quantity) for key, model in models.items()}
        points = report.points(name, {key: None if value is None else value / unit for key, value in values.items()})
        if any(point.x for point in points) and not (quantity == "parameters" and "size_bytes" in figures):
            edge = "whole" if quantity == "chunk_ms" else ""
            chart = CurveChart([[point] for point in points], axis, logarithm=True, edge=edge)
            label, note = f"WER on {name} against {axis}", f"WER on {name}; lower left is better"
            figures[quantity] = Figure(title, chart, label, note)
    measured = {key: model["cost"] for key, model in models.items() if "cost" in model}
    blocks = []
    if measured:
        rows = [{"style": report.styles[key], **cost} for key, cost in measured.items()]
        items = [f"{report.name(key)}: {reason}" for key, cost in measured.items() for reason in _reasons(cost)]
        blocks = [
            SectionBlock(tables=[table(_COST, rows, note=_COST_NOTE)]),
            SectionBlock(items=items, fold="How it was measured"),
        ]
    intro = "Measured in the same run on the same utterances, system by system in turn."
    return Section("cost", "Cost", "Cost", blocks, list(figures.values()), intro)


def teacher_section(report: Report) -> Section:
    """Teachers that this run did not train, and how much smaller their students are."""
    models = report.summary["models"]
    external = [key for key, model in models.items() if model.get("external")]
    blocks = []
    for key in external:
        facts = report.summary["teachers"].get(models[key]["name"], {})
        blocks.append(SectionBlock(text=_teacher(models[key]), items=[f"{n}: {plain(v)}" for n, v in facts.items()]))
    pairs = dict.fromkeys(
        (pair["distilled"], pair["teacher"])
        for found in report.sets.values()
        for pair in found["comparisons"]
        if pair["teacher"] in external
    )
    if pairs:
        rows = [_beside_teacher(report, student, teacher) for student, teacher in pairs]
        columns: Columns = [
            ("Student", "student", lambda style: style),
            ("Teacher", "teacher", lambda style: style),
            *((title, str(title), str) for title, _, _ in COSTS),
            *((f"Gap recovered, {name}", "gaps", lambda gaps, name=name: gaps[name]) for name in report.sets),
        ]
        note = "In brackets: how many times less than the teacher."
        blocks.append(SectionBlock(tables=[table(columns, rows, left=2, note=note)]))
    return Section("distillation", "Distillation", "Distillation", blocks)


def pseudo_label_section(report: Report) -> Section:
    """A table for each kind of pseudo-labels."""
    blocks = []
    for name, found in report.summary.get("pseudo_labels", {}).items():
        own = found["from_transcripts"]
        text = f"Labels by {found['source']}." + (f" {own} utterances keep their own transcripts." if own else "")
        tables = [table(_FILTERS, found["steps"], note=_FILTERS_NOTE)] if found["steps"] else []
        blocks.append(SectionBlock(title=name, text=text, tables=tables))
    return Section("pseudo-labels", "Pseudo-labels", "Pseudo-labels", blocks)


def training_section(report: Report) -> Section:
    """Dev WER by epoch, and the models whose weights average epochs of a curve that still fell."""
    curves = []
    for style in report.styles.values():
        rows = [row for row in report.summary["curves"].get(style.name, []) if "dev_wer" in row]
        if rows:
            curves.append([Point(style, min(row["dev_wer"], 1.0), x=row["epoch"]) for row in rows])
    if not curves:
        return Section("training", "Training", "Training")
    title = "WER on dev after each epoch"
    figure = Figure(
        title, CurveChart(curves, "epoch", from_zero=True), f"{title} of training", "above 100 % is cut off"
    )
    models = report.summary["models"]
    falling = [f"{report.name(key)}: {models[key][FALLING_CURVE]}" for key in models if models[key].get(FALLING_CURVE)]
    return Section("training", "Training", "Training", [SectionBlock(items=falling)] if falling else [], [figure])


def _detail(name: str, row: Plain) -> Cell:
    return UNKNOWN if row.get(name) is None else plain(row[name])


def system_section(report: Report) -> Section:
    """Role, device and settings of every system."""
    models = report.summary["models"]
    details = dict.fromkeys(name for model in models.values() for name in model if name not in _IN_OTHER_TABLES)
    columns: Columns = [
        SYSTEM,
        ("Role", "role", str),
        ("Device", "device", str),
        ("RTF streamed", "streaming_real_time_factor", short_factor),
        *((name, "", partial(_detail, name)) for name in details),  # a name may hold dots
    ]
    rows = [{"style": report.styles[key], **model} for key, model in models.items()]
    return Section("systems", "Models", "Models", [SectionBlock(tables=[table(columns, rows, left=3)])])


def _reasons(cost: Plain) -> Iterator[str]:
    yield f"MACs: {cost['macs_of']}; int8: {cost['size_bytes']['int8_of']}"
    for quantity, key in (("memory", "rss_reason"), ("energy", "energy_reason")):
        if cost[key]:
            yield f"{quantity}: {cost[key]}"


def _teacher(model: Plain) -> str:
    source = f" ({model['source']})" if model.get("source") else ""
    weights = f", weights {model['sha256'][:SHORT_HASH]}…" if model.get("sha256") else ""
    how = "with the settings of `evaluate.decoding`" if model.get("decoding") else "greedily"
    return (
        f"The teacher {model['name']}{source}{weights} was not trained by this run. Its training data is unknown here "
        f"and may contain these recordings or their transcripts. It is decoded {how}, in its own "
        f"{plain(model.get('symbols'))} symbols with a frame every {plain(model.get('frame_shift_ms'))} ms, and "
        "normalized and scored like every other system."
    )


def _beside_teacher(report: Report, student: str, teacher: str) -> Plain:
    """A student's costs, with how many times less than its teacher's they are, and the gap recovered on each set."""
    models = report.summary["models"]
    row: dict[str, object] = {"student": report.styles[student], "teacher": report.styles[teacher]}
    (own,) = table(COSTS, [{"model": models[student]}]).rows
    for (title, place, _), cell in zip(COSTS, own, strict=True):
        more, less = (models[key][place.removeprefix("model.")] for key in (teacher, student))
        row[str(title)] = f"{cell} ({more / less:.3g} ×)" if more and less else cell
    return {**row, "gaps": {name: gap_of_system(found, student) for name, found in report.sets.items()}}
