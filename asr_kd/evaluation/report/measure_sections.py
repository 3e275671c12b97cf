"""Sections of the report on how systems behave: latency and stability, chunk sizes, agreement, robustness.

Each is there when results.json has its numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asr_kd.evaluation.cells import UNKNOWN, optional, percent, signed
from asr_kd.evaluation.report.document import (
    Cell,
    Columns,
    Figure,
    Plain,
    ReportTable,
    Scatter,
    Section,
    SectionBlock,
    Steps,
    heat,
    optional_section,
    table,
)
from asr_kd.evaluation.report.loading import Report
from asr_kd.models.layers import FRAME_SHIFT_MS

WORDS_SHOWN = 5
_PARTS = {"": "tokens", "first token": "first_token", "end of speech": "end_of_speech"}
_LATENCY_NOTE = (
    "Median (90th percentile) over tokens that student and teacher both got right, against forced alignment of the "
    "reference with the teacher's posteriors. Emission: from the token's frame in that alignment to the frame in which "
    "the student emits it. Available: from the same frame to the end of the audio that is needed to compute the "
    "student's frame, which is the end of its chunk; computing time comes on top. End of speech: from the end of the "
    "last token."
)
_STABILITY_NOTE = (
    "Revised: words of partial results that a later one changed, for each final word; grown: last words that a later "
    "partial result lengthened. Extra words: words inserted when {seconds:g} s of digital silence, or of a quiet room "
    "(pink noise, −60 dBFS), follow. With endpoints: in {stream_seconds:g} s after ten of the utterances, in streams "
    "that start anew at every endpoint."
)
_FRAMES_NOTE = (
    "KL(teacher ‖ student) in nats a frame. Same token: frames in which both have the same most likely token; not "
    "blank: the same among frames in which the teacher's is not blank. A student may emit its tokens later than its "
    "teacher, so the last three columns compare its frames at the shift with the lowest KL."
)
_CONDITIONS_NOTE = (
    "WER % of the same utterances under each condition, for every system alike, drawn by utterance id. babble, pink: "
    "five other utterances of the set, or pink noise, so many dB below the utterance; reverb: a room of that RT60 in "
    "seconds, direct and reverberant sound equally strong; telephone: 300–3,400 Hz at 8 kHz, coded; codec: encoded and "
    "decoded by libsndfile at its default rate; speed: tempo and pitch; gain: dB; lead: seconds of "
    "digital silence in front; rate: recorded at so many Hz."
)


def latency_section(report: Report) -> Section | None:
    """Emission latency, stability of partial results, and words in silence."""
    figures: list[Figure] = []
    blocks = []
    for name in report.order:
        found = report.sets[name]
        delays = {key: found[key]["delay"] for key in report.systems(name) if found[key].get("delay")}
        if name == report.main.test_set:
            figures += _latency_figures(report, name, delays)
        tables = [*_latency_table(report, delays), *_stability_table(report, name)]
        if tables:
            blocks.append(SectionBlock(title=name, tables=tables, fold=report.fold(name, "Tables of")))
    if blocks and figures:
        blocks.insert(0, SectionBlock(figures=figures))
    return optional_section("delay", "Emission latency and stability", "Latency", "", blocks, key=bool(figures))


def matrix_section(report: Report) -> Section | None:
    """WER by chunk and left context."""
    matrix: Mapping[str, Sequence[Plain]] = report.summary["matrix"]
    figures: list[Figure] = []
    tables: list[ReportTable] = []
    for name in report.order:
        found = {key: here for key, rows in matrix.items() if (here := [row for row in rows if row["set"] == name])}
        figures += _matrix_figures(report, name, found)
        tables += [_matrix_table(f"{report.name(key)} on {name}", rows) for key, rows in found.items()]
    if not tables:
        return None
    intro = "One model with shorter and longer chunks. * marks contexts that it was not trained with."
    blocks = [*([SectionBlock(figures=figures)] if figures else []), SectionBlock(tables=tables)]
    return Section("matrix", "Chunk and left context", "Chunks", intro, blocks, key=True)


def agreement_section(report: Report) -> Section | None:
    """Agreement of students with their teachers, in words and frame by frame."""
    blocks = []
    for name in report.order:
        agreement = {key: row for key, row in report.sets[name]["agreement"].items() if key in report.styles}
        words = {key: row for key, row in agreement.items() if "only_teacher_words" in row}
        frames = {key: row for key, row in agreement.items() if row.get("frame_kl") is not None}
        tables = [*_word_table(report, words), *_frame_table(report, frames)]
        items = [line for key, row in words.items() for line in _most_frequent(report.name(key), row)]
        if tables:
            fold = report.fold(name, "Agreement on")
            blocks.append(SectionBlock(title=name, tables=tables, items=items, fold=fold))
    intro = "The student's words scored against the teacher's, words that only one of them has right, and posteriors."
    return optional_section("agreement", "Agreement with the teacher", "Agreement", intro, blocks)


def robustness_section(report: Report) -> Section | None:
    """WER of the same recordings in noise, rooms and codecs."""
    found = report.summary["robustness"]
    tables = []
    for name in report.order:
        wer = {key: {row["condition"]: row["wer"] for row in rows if row["set"] == name} for key, rows in found.items()}
        conditions = list(dict.fromkeys(condition for rates in wer.values() for condition in rates))
        if conditions:
            columns: Columns = [
                ("Condition", lambda condition: condition),
                *(
                    (report.styles[key], lambda condition, rates=rates: optional(rates.get(condition), percent))
                    for key, rates in wer.items()
                ),
            ]
            shades = heat([[rates.get(condition) for rates in wer.values()] for condition in conditions])
            rows = [(condition,) for condition in conditions]
            tables.append(table(columns, rows, caption=name, kind="heat", heat=shades))
    if not tables:
        return None
    blocks = [SectionBlock(tables=tables, side_by_side=True), SectionBlock(text=_CONDITIONS_NOTE)]
    return Section("robustness", "Robustness", "Robustness", "", blocks)


def _latency_figures(report: Report, name: str, delays: Mapping[str, Plain]) -> Iterator[Figure]:
    axis = "median latency of a token, milliseconds"
    for kind, note in (("emission", "of the model alone"), ("available", "with the wait for the end of a chunk")):
        medians = {key: (delay[kind] or {}).get("tokens", {}).get("median_ms") for key, delay in delays.items()}
        points = [point for point in report.points(name, medians) if point.cost is not None]
        if points:
            label = f"WER on {name} against {axis}, {kind}"
            yield Figure(kind.capitalize(), Scatter(points, axis, logarithm=False), label, f"WER on {name}; {note}")


def _latency_table(report: Report, delays: Mapping[str, Plain]) -> Iterator[ReportTable]:
    if delays:
        columns: Columns = [
            ("System", lambda key, _: report.styles[key]),
            ("Chunk", lambda _, delay: _milliseconds(delay["chunk_frames"])),
            *(
                (title or f"{kind.capitalize()}, ms", lambda _, delay, kind=kind, part=part: _median(delay[kind], part))
                for kind in ("emission", "available")
                for title, part in _PARTS.items()
            ),
        ]
        yield table(columns, delays.items(), note=_LATENCY_NOTE)


def _stability_table(report: Report, name: str) -> Iterator[ReportTable]:
    found = report.sets[name]
    rows: list[tuple[Any, ...]] = [
        (
            key,
            *(found[key].get(part) or {} for part in ("stability", "trailing_silence", "silent_streams")),
        )
        for key in report.systems(name)
        if found[key].get("stability") or found[key].get("trailing_silence")
    ]
    if rows:
        columns: Columns = [
            ("System", lambda key, *_: report.styles[key]),
            ("Revised a word", lambda *row: optional(row[1].get("revised_per_word"), "{:.2f}".format)),
            ("Grown", lambda *row: optional(row[1].get("grown_per_word"), "{:.2f}".format)),
            *(
                (title, lambda *row, kind=kind: optional(row[2].get(kind, {}).get("extra_words"), str))
                for title, kind in (("Extra words, digital silence", "digital"), ("quiet room", "room"))
            ),
            ("Utterances", lambda *row: str({**row[1], **row[2]}["utterances"])),
            *(
                (title, lambda *row, kind=kind: optional(row[3].get(kind, {}).get("extra_words"), str))
                for title, kind in (("With endpoints, digital silence", "digital"), ("quiet room", "room"))
            ),
        ]
        seconds, stream_seconds = (next((row[at]["seconds"] for row in rows if row[at]), 0) for at in (2, 3))
        yield table(columns, rows, note=_STABILITY_NOTE.format(seconds=seconds, stream_seconds=stream_seconds))


def _matrix_figures(report: Report, name: str, found: Mapping[str, Sequence[Plain]]) -> Iterator[Figure]:
    """WER against the chunk, at the longest left context; nothing for a single chunk size."""
    longest = max((row["left_context_frames"] for rows in found.values() for row in rows), default=0)
    series = [
        (report.styles[key], {row["chunk_ms"]: row["wer"] for row in rows if row["left_context_frames"] == longest})
        for key, rows in found.items()
    ]
    if len({chunk for _, rates in series for chunk in rates}) > 1:
        chart = Steps(series, "milliseconds of audio a chunk")
        note = f"WER, left context {longest * FRAME_SHIFT_MS} ms"
        yield Figure(name, chart, f"WER on {name} against the chunk", note)


def _matrix_table(caption: str, found: Sequence[Plain]) -> ReportTable:
    """A row for each chunk; a column of WER for each left context; the latency at the longest."""
    rows: dict[int, dict[int, Plain]] = {chunk: {} for chunk in sorted({row["chunk_ms"] for row in found})}
    for row in found:
        rows[row["chunk_ms"]][row["left_context_ms"]] = row
    lefts = sorted({row["left_context_ms"] for row in found})
    latency = (("Emission, ms", "emission", "tokens"), ("Available", "available", "tokens"))
    columns: Columns = [
        ("Chunk, ms", lambda chunk, _: str(chunk)),
        *((f"WER %, left {left} ms", lambda _, here, left=left: _wer(here.get(left))) for left in lefts),
        *(
            (title, lambda _, here, kind=kind, part=part: _median((here[max(here)].get("delay") or {}).get(kind), part))
            for title, kind, part in (*latency, ("End of speech", "available", "end_of_speech"))
        ),
    ]
    values = [[here[left]["wer"] if left in here else None for left in lefts] for here in rows.values()]
    return table(columns, rows.items(), caption=caption, kind="heat", heat=[[*row, 0, 0, 0] for row in heat(values)])


def _word_table(report: Report, words: Mapping[str, Plain]) -> Iterator[ReportTable]:
    if words:
        counts = {
            "Only teacher right": "only_teacher_words",
            "Only student right": "only_student_words",
            "Both": "both_words",
            "Neither": "neither_words",
        }
        columns: Columns = [
            ("System", lambda key, _: report.styles[key]),
            ("WER against teacher %", lambda _, row: optional(row["wer_against_teacher"], percent)),
            *((title, lambda _, row, count=count: str(row[count])) for title, count in counts.items()),
        ]
        yield table(columns, words.items())


def _frame_table(report: Report, frames: Mapping[str, Plain]) -> Iterator[ReportTable]:
    def rates(found: Plain) -> list[str]:
        shares = (optional(found[name], "{:.1%}".format) for name in ("argmax_agreement", "spoken_agreement"))
        return [f"{found['frame_kl']:.3f}", *(share.removesuffix("%") for share in shares)]

    if frames:
        titles = ("Frame KL", "Same token, %", "not blank")
        header = ("System", *titles, "Best shift, ms", *titles)
        rows: list[list[Cell]] = [
            [report.styles[key], *rates(row), str(row["at_best_shift"]["shift_ms"]), *rates(row["at_best_shift"])]
            for key, row in frames.items()
        ]
        yield ReportTable(header, rows, note=_FRAMES_NOTE)


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


def _wer(row: Plain | None) -> str:
    return UNKNOWN if row is None else percent(row["wer"]) + ("" if row["trained"] else " *")


def _milliseconds(chunk_frames: int | None) -> str:
    return f"{chunk_frames * FRAME_SHIFT_MS} ms" if chunk_frames else "whole"


def _median(delays: Plain | None, part: str) -> str:
    """Median and 90th percentile of a part of the delays, milliseconds."""
    if not delays or delays[part]["median_ms"] is None:
        return UNKNOWN
    return signed(f"{delays[part]['median_ms']:.0f} ({delays[part]['p90_ms']:.0f})")
