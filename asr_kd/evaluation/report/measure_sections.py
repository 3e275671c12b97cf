"""Sections of the report on how systems behave: latency and stability, chunk sizes, agreement, robustness.

Each is there when results.json has its numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asr_kd.evaluation.cells import UNKNOWN, optional, percent, signed
from asr_kd.evaluation.report.document import (
    SYSTEM,
    Cell,
    Columns,
    CurveChart,
    Figure,
    Plain,
    Point,
    ReportTable,
    Section,
    SectionBlock,
    heat,
    table,
)
from asr_kd.evaluation.report.loading import Report
from asr_kd.models.layers import FRAME_SHIFT_MS

WORDS_SHOWN = 5
_LATENCY_NOTE = (
    "Median (90th percentile) over tokens that student and teacher both got right, against forced alignment of the "
    "reference with the teacher's posteriors. Emission: from the token's frame in that alignment to the frame in which "
    "the student emits it. Available: from the same frame to the end of the audio that is needed to compute the "
    "student's frame, which is the end of its chunk and right context; computing time comes on top. End of "
    "speech: from the end of the last token."
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


def _median(delays: Plain) -> str:
    """Median and 90th percentile of a part of the delays, milliseconds."""
    if delays["median_ms"] is None:
        return UNKNOWN
    return signed(f"{delays['median_ms']:.0f} ({delays['p90_ms']:.0f})")


def _chunk(row: Plain) -> str:
    """Milliseconds of a chunk, and of its right context after a plus."""
    right = row.get("right_context_frames") or 0
    return " + ".join(str(frames * FRAME_SHIFT_MS) for frames in (row["chunk_frames"], right) if frames)


def _share(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


_LATENCY: Columns = (
    SYSTEM,
    ("Chunk", "", lambda row: f"{_chunk(row)} ms" if row["chunk_frames"] else "whole"),
    ("Emission, ms", "emission.tokens", _median),
    ("first token", "emission.first_token", _median),
    ("end of speech", "emission.end_of_speech", _median),
    ("Available, ms", "available.tokens", _median),
    ("first token", "available.first_token", _median),
    ("end of speech", "available.end_of_speech", _median),
)
_STABILITY: Columns = (
    SYSTEM,
    ("Revised a word", "stability.revised_per_word", "{:.2f}".format),
    ("Grown", "stability.grown_per_word", "{:.2f}".format),
    ("Extra words, digital silence", "trailing_silence.digital.extra_words", str),
    ("quiet room", "trailing_silence.room.extra_words", str),
    ("Utterances", "", lambda row: str((row["trailing_silence"] or row["stability"])["utterances"])),
    ("With endpoints, digital silence", "silent_streams.digital.extra_words", str),
    ("quiet room", "silent_streams.room.extra_words", str),
)
_WORDS: Columns = (
    SYSTEM,
    ("WER against teacher %", "wer_against_teacher", percent),
    ("Only teacher right", "only_teacher_words", str),
    ("Only student right", "only_student_words", str),
    ("Both", "both_words", str),
    ("Neither", "neither_words", str),
)
_FRAMES: Columns = (
    SYSTEM,
    ("Frame KL", "frame_kl", "{:.3f}".format),
    ("Same token, %", "argmax_agreement", _share),
    ("not blank", "spoken_agreement", _share),
    ("Best shift, ms", "at_best_shift.shift_ms", str),
    ("Frame KL", "at_best_shift.frame_kl", "{:.3f}".format),
    ("Same token, %", "at_best_shift.argmax_agreement", _share),
    ("not blank", "at_best_shift.spoken_agreement", _share),
)


def latency_section(report: Report) -> Section:
    """Emission latency, stability of partial results, and words in silence."""
    figures: list[Figure] = []
    blocks = []
    for name in report.order:
        rows = [{"style": report.styles[key], **report.sets[name][key]} for key in report.systems(name)]
        delays = [{"style": row["style"], **row["delay"]} for row in rows if row.get("delay")]
        tables = [table(_LATENCY, delays, note=_LATENCY_NOTE)] if delays else []
        tables += _stability_table(rows)
        if name == report.main.test_set:
            figures += _latency_figures(report, name)
        if tables:
            blocks.append(SectionBlock(title=name, tables=tables, fold=report.fold(name, "Tables of")))
    return Section("delay", "Emission latency and stability", "Latency", blocks, figures)


def matrix_section(report: Report) -> Section:
    """WER by chunk, left and right context."""
    figures: list[Figure] = []
    tables: list[ReportTable] = []
    for name in report.order:
        matrix = {key: [row for row in rows if row["set"] == name] for key, rows in report.summary["matrix"].items()}
        found = {key: rows for key, rows in matrix.items() if rows}
        figures += _matrix_figure(report, name, found)
        tables += [_matrix_table(f"{report.name(key)} on {name}", rows) for key, rows in found.items()]
    intro = (
        "One model with shorter and longer chunks; 320 + 160 is a chunk with 160 ms of right context. * marks contexts "
        "that it was not trained with."
    )
    blocks = [SectionBlock(tables=tables)] if tables else []
    return Section("matrix", "Chunk and context", "Chunks", blocks, figures, intro)


def agreement_section(report: Report) -> Section:
    """Agreement of students with their teachers, in words and frame by frame."""
    blocks = []
    for name in report.order:
        agreement = report.sets[name]["agreement"]
        rows = [{"style": report.styles[key], **row} for key, row in agreement.items() if key in report.styles]
        words = [row for row in rows if "only_teacher_words" in row]
        frames = [row for row in rows if row.get("frame_kl") is not None]
        tables = [table(_WORDS, words)] if words else []
        tables += [table(_FRAMES, frames, note=_FRAMES_NOTE)] if frames else []
        if tables:
            items = [line for row in words for line in _most_frequent(row)]
            fold = report.fold(name, "Agreement on")
            blocks.append(SectionBlock(title=name, tables=tables, items=items, fold=fold))
    intro = "The student's words scored against the teacher's, words that only one of them has right, and posteriors."
    return Section("agreement", "Agreement with the teacher", "Agreement", blocks, intro=intro)


def robustness_section(report: Report) -> Section:
    """WER of the same recordings in noise, rooms and codecs."""
    found = report.summary["robustness"]
    header: list[Cell] = ["Condition", *(report.styles[key] for key in found)]
    tables = []
    for name in report.order:
        wer = [{row["condition"]: row["wer"] for row in rows if row["set"] == name} for rows in found.values()]
        rates = {condition: [own.get(condition) for own in wer] for own in wer for condition in own}
        if rates:
            rows = [[condition, *(optional(rate, percent) for rate in row)] for condition, row in rates.items()]
            tables.append(ReportTable(header, rows, name, kind="heat", heat=heat(list(rates.values()))))
    blocks = [SectionBlock(tables=tables, side_by_side=True), SectionBlock(text=_CONDITIONS_NOTE)] if tables else []
    return Section("robustness", "Robustness", "Robustness", blocks)


def _latency_figures(report: Report, name: str) -> Iterator[Figure]:
    axis = "median latency of a token, milliseconds"
    for kind, note in (("emission", "of the model alone"), ("available", "with the wait for the end of a chunk")):
        delays = {key: report.sets[name][key].get("delay") or {} for key in report.systems(name)}
        medians = {key: delay[kind]["tokens"]["median_ms"] for key, delay in delays.items() if delay.get(kind)}
        points = [point for point in report.points(name, medians) if point.x is not None]
        if points:
            chart = CurveChart([[point] for point in points], axis)
            yield Figure(kind.capitalize(), chart, f"WER on {name} against {axis}, {kind}", f"WER on {name}; {note}")


def _stability_table(systems: Sequence[Plain]) -> Iterator[ReportTable]:
    rows: list[dict[str, Any]] = [
        {part: system.get(part) for part in ("style", "stability", "trailing_silence", "silent_streams")}
        for system in systems
        if system.get("stability") or system.get("trailing_silence")
    ]
    if rows:
        seconds, stream_seconds = (
            max((row[part] or {}).get("seconds", 0) for row in rows) for part in ("trailing_silence", "silent_streams")
        )
        yield table(_STABILITY, rows, note=_STABILITY_NOTE.format(seconds=seconds, stream_seconds=stream_seconds))


def _matrix_figure(report: Report, name: str, found: Mapping[str, Sequence[Plain]]) -> Iterator[Figure]:
    """WER against the chunk, at the longest left context; nothing for a single chunk size."""
    longest = max((row["left_context_frames"] for rows in found.values() for row in rows), default=0)
    curves = []
    for key, rows in found.items():
        at_longest = sorted(
            (row["chunk_ms"] + row.get("right_context_ms", 0), row["wer"])
            for row in rows
            if row["left_context_frames"] == longest
        )
        curves.append([Point(report.styles[key], wer, x=chunk) for chunk, wer in at_longest])
    chunks = sorted({point.x for curve in curves for point in curve if point.x is not None})
    if len(chunks) > 1:
        chart = CurveChart([curve for curve in curves if curve], "chunk and right context, ms", True, chunks)
        note = f"WER, left context {longest * FRAME_SHIFT_MS} ms"
        yield Figure(name, chart, f"WER on {name} against the chunk", note)


def _matrix_table(caption: str, found: Sequence[Plain]) -> ReportTable:
    """A row for each chunk and right context; a column of WER for each left context; the latency at the longest."""
    lefts = sorted({row["left_context_ms"] for row in found})
    by_chunk: dict[str, dict[str, Plain]] = {}
    for row in sorted(found, key=lambda row: (row["chunk_frames"], row.get("right_context_frames", 0))):
        by_chunk.setdefault(_chunk(row), {})[str(row["left_context_ms"])] = row
    rows: list[dict[str, Any]] = [
        {"chunk": chunk, "at": here, "longest": here[max(here, key=int)].get("delay")}
        for chunk, here in by_chunk.items()
    ]
    columns: Columns = [
        ("Chunk, ms", "chunk", str),
        *(
            (f"WER %, left {left} ms", f"at.{left}", lambda row: percent(row["wer"]) + ("" if row["trained"] else " *"))
            for left in lefts
        ),
        ("Emission, ms", "longest.emission.tokens", _median),
        ("Available", "longest.available.tokens", _median),
        ("End of speech", "longest.available.end_of_speech", _median),
    ]
    values = [[row["at"].get(str(left), {}).get("wer") for left in lefts] for row in rows]
    return table(columns, rows, caption=caption, kind="heat", heat=[[*row, 0, 0, 0] for row in heat(values)])


def _most_frequent(row: Plain) -> Iterator[str]:
    """Words that only one of the two has right, most frequent first."""
    sides = {
        "only_teacher_most": f"the teacher has right and {row['style']} has wrong",
        "only_student_most": f"{row['style']} has right and the teacher has wrong",
    }
    for key, side in sides.items():
        words = ", ".join(f"{word} ({count})" for word, count in row[key][:WORDS_SHOWN])
        if words:
            yield f"Most frequent words that {side}: {words}"
