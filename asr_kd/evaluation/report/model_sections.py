"""Sections of the report on the systems themselves: cost, distillation, training, pseudo-labels, and their settings."""

from collections.abc import Iterator

from asr_kd.evaluation.cells import (
    COSTS,
    UNKNOWN,
    cost_cells,
    gap_of_system,
    megabytes,
    millions,
    optional,
    percent,
    plain,
    short_factor,
)
from asr_kd.evaluation.report.document import (
    Cell,
    Columns,
    Curves,
    Figure,
    Plain,
    ReportTable,
    Scatter,
    Section,
    SectionBlock,
    optional_section,
    table,
)
from asr_kd.evaluation.report.loading import Report
from asr_kd.evaluation.system import FALLING_CURVE

SHORT_HASH = 12
_COST_NOTE = (
    "MACs/s: multiply-accumulates a second of speech; RTF and chunks: one thread, features and decoding included; "
    "Memory: largest resident size of a separate process, Python and torch included (before the model was opened)."
)
_IN_OTHER_TABLES = frozenset(
    {"cost", "name", "role", "parameters", "size_bytes", "real_time_factor", "rtf_utterances", "rtf_threads", "device"}
    | {
        "streaming_real_time_factor",
        "external",
        "sha256",
        "hypotheses_sha256",
        "symbols",
        "frame_shift_ms",
        FALLING_CURVE,
    }
)
_COST_AXES = (
    ("size_bytes", 1e6, "Size", "megabytes of weights"),
    ("parameters", 1e6, "Parameters", "millions"),
    ("real_time_factor", 1, "Real-time factor", "seconds of computing a second of speech"),
    ("streaming_real_time_factor", 1, "Real-time factor of a stream", "the same, audio arriving in packets"),
    ("chunk_ms", 1, "Chunk", "milliseconds of audio a chunk"),
)
"""Entry of a model, unit, title and axis of each chart of WER against a cost."""


def cost_section(report: Report) -> Section | None:
    """Cost of every system, and WER of the main set against it."""
    models, name = report.summary["models"], report.main.test_set
    figures: dict[str, Figure] = {}
    for quantity, unit, title, axis in _COST_AXES:
        values = {key: model.get(quantity) for key, model in models.items()}
        costs = {key: None if value is None else value / unit for key, value in values.items()}
        points = report.points(name, costs, "whole" if quantity == "chunk_ms" else "")
        if any(point.cost for point in points) and not (quantity == "parameters" and "size_bytes" in figures):
            label, note = f"WER on {name} against {axis}", f"WER on {name}; lower left is better"
            figures[quantity] = Figure(title, Scatter(points, axis), label, note)
    measured = {key: model["cost"] for key, model in models.items() if "cost" in model}
    if not figures and not measured:
        return None
    blocks = [SectionBlock(figures=list(figures.values()))] if figures else []
    if measured:
        items = [f"{report.name(key)}: {reason}" for key, cost in measured.items() for reason in _reasons(cost)]
        columns: Columns = [
            ("System", lambda key, _: report.styles[key]),
            ("Parameters", lambda _, cost: millions(cost["parameters"])),
            ("MACs/s", lambda _, cost: optional(cost["macs_per_second"], lambda count: f"{count / 1e6:.1f} M")),
            ("fp32", lambda _, cost: megabytes(cost["size_bytes"]["fp32"])),
            ("int8", lambda _, cost: _int8(cost["size_bytes"])),
            ("RTF", lambda _, cost: short_factor(cost["rtf"]["whole"])),
            ("streamed", lambda _, cost: short_factor(cost["rtf"]["streamed"])),
            ("Memory", lambda _, cost: _memory(cost)),
            ("Chunk p50", lambda _, cost: optional((cost["chunk_ms"] or {}).get("p50"), "{:.1f} ms".format)),
            ("p99", lambda _, cost: optional((cost["chunk_ms"] or {}).get("p99"), "{:.1f} ms".format)),
            ("J/hour", lambda _, cost: optional(cost["energy_j_per_hour"], "{:.1f}".format)),
        ]
        blocks += [
            SectionBlock(tables=[table(columns, measured.items(), note=_COST_NOTE)]),
            SectionBlock(items=items, fold="How it was measured"),
        ]
    intro = "Measured in the same run on the same utterances, system by system in turn."
    return Section("cost", "Cost", "Cost", intro, blocks, key=bool(figures))


def teacher_section(report: Report) -> Section | None:
    """Teachers that this run did not train, and how much smaller their students are; None without such a teacher."""
    models = report.summary["models"]
    external = [key for key, model in models.items() if model.get("external")]
    if not external:
        return None
    blocks = []
    for key in external:
        facts = report.summary["teachers"].get(models[key]["name"], {})
        items = [f"{name}: {plain(value)}" for name, value in facts.items()]
        blocks.append(SectionBlock(text=_teacher(models[key]), items=items))
    pairs = {
        (pair["distilled"], pair["teacher"]): None
        for found in report.sets.values()
        for pair in found["comparisons"]
        if pair["teacher"] in external
    }
    quantities = ("parameters", "size_bytes", "real_time_factor")
    columns: Columns = [
        ("Student", lambda student, _: report.styles[student]),
        ("Teacher", lambda _, teacher: report.styles[teacher]),
        *(
            (
                title,
                lambda student, teacher, place=place: (
                    cost_cells(models[student])[place]
                    + _times(models[teacher][quantities[place]], models[student][quantities[place]])
                ),
            )
            for place, title in enumerate(COSTS)
        ),
        *(
            (f"Gap recovered, {name}", lambda student, _, found=found: gap_of_system(found, student))
            for name, found in report.sets.items()
        ),
    ]
    if pairs:
        note = "In brackets: how many times less than the teacher."
        blocks.append(SectionBlock(tables=[table(columns, pairs, left=2, note=note)]))
    return Section("distillation", "Distillation", "Distillation", "", blocks)


def training_section(report: Report) -> Section | None:
    """Dev WER by epoch, and the models whose weights average epochs of a curve that still fell."""
    series = []
    for style in report.styles.values():
        rows = [row for row in report.summary["curves"].get(style.name, []) if "dev_wer" in row]
        if rows:
            series.append((style, [(float(row["epoch"]), float(row["dev_wer"])) for row in rows]))
    if not series:
        return None
    title = "WER on dev after each epoch"
    figure = Figure(title, Curves(series), f"{title} of training", "above 100 % is cut off")
    models = report.summary["models"]
    falling = [f"{report.name(key)}: {models[key][FALLING_CURVE]}" for key in models if models[key].get(FALLING_CURVE)]
    return Section("training", "Training", "Training", "", [SectionBlock(figures=[figure], items=falling)], key=True)


def system_section(report: Report) -> Section:
    """Role, device and settings of every system."""
    models = report.summary["models"]
    details = dict.fromkeys(name for model in models.values() for name in model if name not in _IN_OTHER_TABLES)
    columns: Columns = [
        ("System", lambda key, _: report.styles[key]),
        ("Role", lambda _, model: model["role"]),
        ("Device", lambda _, model: model["device"]),
        ("RTF streamed", lambda _, model: short_factor(model["streaming_real_time_factor"])),
        *((name, lambda _, model, name=name: plain(model.get(name))) for name in details),
    ]
    return Section("systems", "Models", "Models", "", [SectionBlock(tables=[table(columns, models.items(), left=3)])])


def _int8(size: Plain) -> str:
    return megabytes(size["int8"]) + ("*" if "estimate" in size["int8_of"] else "")


def _memory(cost: Plain) -> str:
    before = "" if cost["rss_bytes"] is None else f" ({cost['rss_before_bytes'] / 1e6:.0f})"
    return optional(cost["rss_bytes"], lambda peak: f"{peak / 1e6:.0f} MB") + before


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


def _times(more: float | None, less: float | None) -> str:
    return f" ({more / less:.3g} ×)" if more and less else ""


_HEADER = ("Filter", "Threshold", "Utterances", "Hours", "WER of the labels %")
_NOTE = (
    "Filters in the order in which they are applied; each row is what is left after it. WER: of the labels against the "
    "corpus' own transcripts, where there are some; training does not use these."
)


def pseudo_label_section(report: Report) -> Section | None:
    """A table for each kind of pseudo-labels; None without any."""
    blocks = []
    for name, found in report.summary.get("pseudo_labels", {}).items():
        rows: list[list[Cell]] = [
            [step["name"], UNKNOWN if step["threshold"] is None else f"{step['threshold']:g}", str(step["kept"]),
             f"{step['hours']:.2f}", optional(step["wer"], percent)]
            for step in found["steps"]
        ]  # fmt: skip
        own = found["from_transcripts"]
        text = f"Labels by {found['source']}." + (f" {own} utterances keep their own transcripts." if own else "")
        tables = [ReportTable(_HEADER, rows, note=_NOTE)] if rows else []
        blocks.append(SectionBlock(title=name, text=text, tables=tables))
    return optional_section("pseudo-labels", "Pseudo-labels", "Pseudo-labels", "", blocks)
