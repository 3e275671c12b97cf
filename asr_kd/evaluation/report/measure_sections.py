"""Sections of the report on what is measured beside errors: cost, latency, contexts, agreement, robustness, seeds.

Each is there when results.json has its numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asr_kd.evaluation.cells import UNKNOWN, gap, interval, megabytes, millions, optional, percent, short_factor
from asr_kd.evaluation.report.document import (
    Cell,
    Figure,
    Point,
    ReportTable,
    Scatter,
    Section,
    SectionBlock,
    Steps,
    Styles,
    heat,
)
from asr_kd.evaluation.report.loading import Report
from asr_kd.evaluation.report.main_systems import MainSystems, order_of_sets
from asr_kd.evaluation.report.result_sections import points_of
from asr_kd.models.subsampling import FRAME_SHIFT_MS

Plain = Mapping[str, Any]

WORDS_SHOWN = 5
_PARTS = ("tokens", "first_token", "end_of_speech")
_LATENCY = (
    "System", "Chunk", "Emission, ms", "first token", "end of speech", "Available, ms", "first token", "end of speech"
)  # fmt: skip
_LATENCY_NOTE = (
    "Median (90th percentile) over tokens that student and teacher both got right, against forced alignment of the "
    "reference with the teacher's posteriors. Emission: from the token's frame in that alignment to the frame in which "
    "the student emits it. Available: from the same frame to the end of the audio that is needed to compute the "
    "student's frame, which is the end of its chunk; computing time comes on top. End of speech: from the end of the "
    "last token."
)
_STABILITY = ("System", "Revised a word", "Grown", "Extra words, digital silence", "quiet room", "Utterances")
_STABILITY_NOTE = (
    "Revised: words of partial results that a later one changed, for each final word; grown: last words that a later "
    "partial result lengthened. Extra words: words inserted when {seconds:g} s of digital silence, or of a quiet room "
    "(pink noise, −60 dBFS), follow."
)
_WORDS = ("System", "WER against teacher %", "Only teacher right", "Only student right", "Both", "Neither")
_FRAMES = (
    "System", "Frame KL", "Same token, %", "not blank", "Best shift, ms", "Frame KL", "Same token, %", "not blank"
)  # fmt: skip
_FRAMES_NOTE = (
    "KL(teacher ‖ student) in nats a frame. Same token: frames in which both have the same most likely token; not "
    "blank: the same among frames in which the teacher's is not blank. A student may emit its tokens later than its "
    "teacher, so the last three columns compare its frames at the shift with the lowest KL."
)
_COST = ("System", "Parameters", "MACs/s", "fp32", "int8", "RTF", "streamed", "Memory", "Chunk p50", "p99", "J/hour")
_COST_NOTE = (
    "MACs/s: multiply-accumulates a second of speech; RTF and chunks: one thread, features and decoding included; "
    "Memory: largest resident size of a separate process, Python and torch included (before the model was opened)."
)
_CONDITIONS_NOTE = (
    "WER % of the same utterances under each condition, for every system alike, drawn by utterance id. babble, pink: "
    "five other utterances of the set, or pink noise, so many dB below the utterance; reverb: a room of that RT60 in "
    "seconds, direct and reverberant sound equally strong; telephone: 300–3,400 Hz at 8 kHz, coded; codec: encoded and "
    "decoded by libsndfile at its default rate; speed: tempo and pitch; gain: dB."
)
_SEEDS = ("Row", "Set", "Runs", "WER %", "SD", "Range", "95 % interval", "Gap recovered")
_SEEDS_NOTE = (
    "WER: mean over runs, their standard deviation (n − 1) and range; the interval covers the choice of runs as well "
    "as that of speakers (utterances where speakers are not known); gap recovered: ratio of the means over runs."
)


def cost_section(report: Report, styles: Styles, main: MainSystems) -> Section | None:
    """Cost of every system, and WER of the main set against it."""
    models = report.summary["models"]
    costs = {
        "size": {key: _scaled(model["size_bytes"], 1e6) for key, model in models.items()},
        "parameters": {key: _scaled(model["parameters"], 1e6) for key, model in models.items()},
        "rtf": {key: model["real_time_factor"] for key, model in models.items()},
        "streamed": {key: model["streaming_real_time_factor"] for key, model in models.items()},
        "chunk": {key: model.get("chunk_ms") for key, model in models.items()},
    }
    axes = {
        "size": ("Size", "megabytes of weights"),
        "parameters": ("Parameters", "millions"),
        "rtf": ("Real-time factor", "seconds of computing a second of speech"),
        "streamed": ("Real-time factor of a stream", "the same, audio arriving in packets"),
        "chunk": ("Chunk", "milliseconds of audio a chunk"),
    }
    figures: dict[str, Figure] = {}
    for name, (title, axis) in axes.items():
        notes = dict.fromkeys(models, "whole") if name == "chunk" else {}
        points = points_of(report, styles, main.test_set, costs[name], notes)
        if any(point.cost for point in points) and not (name == "parameters" and "size" in figures):
            label = f"WER on {main.test_set} against {axis}"
            note = f"WER on {main.test_set}; lower left is better"
            figures[name] = Figure(title, Scatter(points, axis), label, note)
    measured = {key: model["cost"] for key, model in models.items() if "cost" in model}
    if not figures and not measured:
        return None
    rows = [[styles[key], *_cost_cells(cost)] for key, cost in measured.items()]
    items = [f"{styles[key].name}: {reason}" for key, cost in measured.items() for reason in _reasons(cost)]
    blocks = [SectionBlock(figures=list(figures.values()))] if figures else []
    if rows:
        blocks += [
            SectionBlock(tables=[ReportTable(_COST, rows, note=_COST_NOTE)]),
            SectionBlock(items=items, fold="How it was measured"),
        ]
    intro = "Measured in the same run on the same utterances, system by system in turn."
    return Section("cost", "Cost", "Cost", intro, blocks, key=bool(figures))


def latency_section(report: Report, styles: Styles, main: MainSystems) -> Section | None:
    """Emission latency, stability of partial results, and words in silence."""
    figures: list[Figure] = []
    blocks = []
    for name in order_of_sets(report, main):
        found, first = report.sets[name], name == main.test_set
        delays = {key: found[key]["delay"] for key in report.systems(name) if found[key].get("delay")}
        if first:
            figures += _latency_figures(name, found, styles, delays)
        rows = [[styles[key], *_latency_cells(delay)] for key, delay in delays.items()]
        tables = [ReportTable(_LATENCY, rows, note=_LATENCY_NOTE)] if rows else []
        tables += _stability_table(report, name, styles)
        if tables:
            blocks.append(SectionBlock(title=name, tables=tables, fold="" if first else f"Tables of {name}"))
    if not blocks:
        return None
    blocks = [SectionBlock(figures=figures), *blocks] if figures else blocks
    return Section("delay", "Emission latency and stability", "Latency", "", blocks, key=bool(figures))


def matrix_section(report: Report, styles: Styles, main: MainSystems) -> Section | None:
    """WER by chunk and left context."""
    matrix: Mapping[str, Sequence[Plain]] = report.summary["matrix"]
    figures, tables = [], []
    for name in order_of_sets(report, main):
        found = {key: here for key, rows in matrix.items() if (here := [row for row in rows if row["set"] == name])}
        figures += _matrix_figures(styles, name, found)
        tables += [_matrix_table(f"{styles[key].name} on {name}", rows) for key, rows in found.items()]
    if not tables:
        return None
    intro = "One model with shorter and longer chunks. * marks contexts that it was not trained with."
    blocks = [SectionBlock(figures=figures)] if figures else []
    return Section(
        "matrix", "Chunk and left context", "Chunks", intro, [*blocks, SectionBlock(tables=tables)], key=True
    )


def agreement_section(report: Report, styles: Styles, main: MainSystems) -> Section | None:
    """Agreement of students with their teachers, in words and frame by frame."""
    blocks = []
    for name in order_of_sets(report, main):
        agreement = {key: row for key, row in report.sets[name]["agreement"].items() if key in styles}
        words = {key: row for key, row in agreement.items() if "only_teacher_words" in row}
        frames = {key: row for key, row in agreement.items() if row.get("frame_kl") is not None}
        tables = (
            [ReportTable(_WORDS, [[styles[key], *_word_cells(row)] for key, row in words.items()])] if words else []
        )
        if frames:
            rows = [[styles[key], *_frame_cells(row)] for key, row in frames.items()]
            tables.append(ReportTable(_FRAMES, rows, note=_FRAMES_NOTE))
        items = [line for key, row in words.items() for line in _most_frequent(styles[key].name, row)]
        if tables:
            fold = "" if name == main.test_set else f"Agreement on {name}"
            blocks.append(SectionBlock(title=name, tables=tables, items=items, fold=fold))
    if not blocks:
        return None
    intro = "The student's words scored against the teacher's, words that only one of them has right, and posteriors."
    return Section("agreement", "Agreement with the teacher", "Agreement", intro, blocks)


def robustness_section(report: Report, styles: Styles, main: MainSystems) -> Section | None:
    """WER of the same recordings in noise, rooms and codecs."""
    found = report.summary["robustness"]
    tables = []
    there = {row["set"] for rows in found.values() for row in rows}
    for name in (name for name in order_of_sets(report, main) if name in there):
        wer = {key: {row["condition"]: row["wer"] for row in rows if row["set"] == name} for key, rows in found.items()}
        conditions = list(dict.fromkeys(condition for rows in wer.values() for condition in rows))
        values = [[wer[key].get(condition) for key in wer] for condition in conditions]
        rows: list[list[Cell]] = [
            [condition, *(optional(value, percent) for value in row)]
            for condition, row in zip(conditions, values, strict=True)
        ]
        header: list[Cell] = ["Condition", *(styles[key] for key in wer)]
        tables.append(ReportTable(header, rows, name, kind="heat", heat=heat(values)))
    if not tables:
        return None
    blocks = [SectionBlock(tables=tables, side_by_side=True), SectionBlock(text=_CONDITIONS_NOTE)]
    return Section("robustness", "Robustness", "Robustness", "", blocks)


def seed_section(report: Report) -> Section | None:
    """Several training runs of one system as one row."""
    rows: list[list[Cell]] = [
        [name, row["set"], str(len(row["runs"])), percent(row["mean"]), optional(row["deviation"], percent),
         f"{percent(row['lowest'])}–{percent(row['highest'])}", interval(row["low"], row["high"]),
         gap(row) if "gap_recovered" in row else ""]
        for name, found in report.summary["seeds"].items()
        for row in found
    ]  # fmt: skip
    if not rows:
        return None
    return Section(
        "seeds",
        "Several training runs",
        "Seeds",
        "",
        [SectionBlock(tables=[ReportTable(_SEEDS, rows, left=2, note=_SEEDS_NOTE)])],
    )


def _latency_figures(name: str, found: Plain, styles: Styles, delays: Mapping[str, Plain]) -> Iterator[Figure]:
    axis = "median latency of a token, milliseconds"
    for kind, note in (("emission", "of the model alone"), ("available", "with the wait for the end of a chunk")):
        costs = {key: (delay[kind] or {}).get("tokens", {}).get("median_ms") for key, delay in delays.items()}
        points = [
            Point(styles[key], found[key]["wer"], found[key]["wer_low"], found[key]["wer_high"], cost)
            for key, cost in costs.items()
            if cost is not None
        ]
        if points:
            label = f"WER on {name} against {axis}, {kind}"
            yield Figure(kind.capitalize(), Scatter(points, axis, logarithm=False), label, f"WER on {name}; {note}")


def _latency_cells(delay: Plain) -> list[Cell]:
    available = delay["available"]
    return [
        f"{delay['chunk_frames'] * FRAME_SHIFT_MS} ms" if delay["chunk_frames"] else "whole",
        *(_median(delay["emission"][part]) for part in _PARTS),
        *(_median(available[part]) if available else UNKNOWN for part in _PARTS),
    ]


def _stability_table(report: Report, name: str, styles: Styles) -> list[ReportTable]:
    found = report.sets[name]
    keys = [key for key in report.systems(name) if found[key].get("stability") or found[key].get("trailing_silence")]
    if not keys:
        return []
    silences = [found[key]["trailing_silence"] for key in keys if found[key].get("trailing_silence")]
    note = _STABILITY_NOTE.format(seconds=silences[0]["seconds"] if silences else 0)
    return [ReportTable(_STABILITY, [[styles[key], *_stability_cells(found[key])] for key in keys], note=note)]


def _stability_cells(row: Plain) -> list[Cell]:
    stability, silence = row.get("stability") or {}, row.get("trailing_silence") or {}
    return [
        optional(stability.get("revised_per_word"), "{:.2f}".format),
        optional(stability.get("grown_per_word"), "{:.2f}".format),
        *(optional(silence.get(kind, {}).get("extra_words"), str) for kind in ("digital", "room")),
        str((silence or stability)["utterances"]),
    ]


def _matrix_figures(styles: Styles, name: str, found: Mapping[str, Sequence[Plain]]) -> list[Figure]:
    """WER against the chunk, at the longest left context; nothing for a single chunk size."""
    longest = max((row["left_context_frames"] for rows in found.values() for row in rows), default=0)
    series = [
        (styles[key], {row["chunk_ms"]: row["wer"] for row in rows if row["left_context_frames"] == longest})
        for key, rows in found.items()
    ]
    if len({chunk for _, rates in series for chunk in rates}) < 2:
        return []
    chart = Steps(series, "milliseconds of audio a chunk")
    note = f"WER, left context {longest * FRAME_SHIFT_MS} ms"
    return [Figure(name, chart, f"WER on {name} against the chunk", note)]


def _matrix_table(caption: str, rows: Sequence[Plain]) -> ReportTable:
    """A row for each chunk; a column of WER for each left context; the latency at the longest."""
    lefts, chunks = sorted({row["left_context_ms"] for row in rows}), sorted({row["chunk_ms"] for row in rows})
    by_place = {(row["chunk_ms"], row["left_context_ms"]): row for row in rows}
    values = [[by_place[chunk, left]["wer"] if (chunk, left) in by_place else None for left in lefts]
              for chunk in chunks]  # fmt: skip
    cells: list[list[Cell]] = []
    for chunk in chunks:
        here = {left: by_place[chunk, left] for left in lefts if (chunk, left) in by_place}
        latency = here[max(here)].get("delay")
        cells.append([str(chunk), *(_wer(here.get(left)) for left in lefts), *_matrix_latency(latency)])
    header = ["Chunk, ms", *(f"WER %, left {left} ms" for left in lefts), "Emission, ms", "Available", "End of speech"]
    shades = [[*row, 0, 0, 0] for row in heat(values)]
    return ReportTable(header, cells, caption, kind="heat", heat=shades)


def _matrix_latency(delay: Plain | None) -> list[Cell]:
    if not delay:
        return [UNKNOWN] * 3
    available = delay["available"]
    return [_median(delay["emission"]["tokens"]), _median(available["tokens"]), _median(available["end_of_speech"])]


def _wer(row: Plain | None) -> str:
    return UNKNOWN if row is None else percent(row["wer"]) + ("" if row["trained"] else " *")


def _word_cells(row: Plain) -> list[Cell]:
    counts = ("only_teacher_words", "only_student_words", "both_words", "neither_words")
    return [optional(row["wer_against_teacher"], percent), *(str(row[count]) for count in counts)]


def _frame_cells(row: Plain) -> list[Cell]:
    best = row["at_best_shift"]
    here, there = (
        [f"{found['frame_kl']:.3f}", _share(found["argmax_agreement"]), _share(found["spoken_agreement"])]
        for found in (row, best)
    )
    return [*here, str(best["shift_ms"]), *there]


def _most_frequent(name: str, row: Plain) -> Iterator[str]:
    """Words that only one of the two has right, most frequent first."""
    sides = {
        "only_teacher_most": f"the teacher has right and {name} has wrong",
        "only_student_most": f"{name} has right and the teacher has wrong",
    }
    for key, side in sides.items():
        words = ", ".join(f"{word} ({count})" for word, count in row[key][:WORDS_SHOWN])
        if words:
            yield f"Most frequent words that {side}: {words}"


def _cost_cells(cost: Plain) -> list[Cell]:
    chunk, size = cost["chunk_ms"] or {}, cost["size_bytes"]
    milliseconds = "{:.1f} ms".format
    memory = "" if cost["rss_bytes"] is None else f" ({cost['rss_before_bytes'] / 1e6:.0f})"
    return [
        millions(cost["parameters"]),
        optional(cost["macs_per_second"], lambda count: f"{count / 1e6:.1f} M"),
        megabytes(size["fp32"]),
        megabytes(size["int8"]) + ("*" if "estimate" in size["int8_of"] else ""),
        short_factor(cost["rtf"]["whole"]),
        short_factor(cost["rtf"]["streamed"]),
        optional(cost["rss_bytes"], lambda peak: f"{peak / 1e6:.0f} MB") + memory,
        optional(chunk.get("p50"), milliseconds),
        optional(chunk.get("p99"), milliseconds),
        optional(cost["energy_j_per_hour"], "{:.1f}".format),
    ]


def _reasons(cost: Plain) -> Iterator[str]:
    yield f"MACs: {cost['macs_of']}; int8: {cost['size_bytes']['int8_of']}"
    for quantity, key in (("memory", "rss_reason"), ("energy", "energy_reason")):
        if cost[key]:
            yield f"{quantity}: {cost[key]}"


def _median(part: Plain) -> str:
    return UNKNOWN if part["median_ms"] is None else f"{part['median_ms']:.0f} ({part['p90_ms']:.0f})".replace("-", "−")


def _share(value: float | None) -> str:
    return optional(value, lambda share: f"{100 * share:.1f}")


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit
