"""Sections of what is measured beside errors: the same numbers in Markdown and on the page, none without them."""

import re

import pytest

from asr_kd.evaluation.report import Report
from asr_kd.evaluation.report.assemble import assemble
from asr_kd.evaluation.report.page import page
from asr_kd.evaluation.report.text_renderers import markdown

PART = {"count": 9, "median_ms": 123.0, "p90_ms": 234.0}
DELAY = {
    "emission": {
        "tokens": PART,
        "first_token": {**PART, "median_ms": -77.0},
        "end_of_speech": {**PART, "median_ms": None},
    },
    "available": {"tokens": {**PART, "median_ms": 345.0}, "first_token": PART, "end_of_speech": PART},
    "chunk_frames": 8,
}
COST = {
    "parameters": 940_000,
    "macs_per_second": 29_220_000,
    "macs_of": "one chunk",
    "size_bytes": {"fp32": 3_758_224, "int8": 1_000_000, "int8_of": "estimate: a byte for each parameter"},
    "rtf": {"whole": 0.019, "streamed": None},
    "rss_bytes": 580_000_000,
    "rss_before_bytes": 550_000_000,
    "rss_reason": None,
    "chunk_ms": {"p50": 7.24, "p99": 11.3},
    "energy_j_per_hour": None,
    "energy_reason": "no counters",
}
SHIFTED = {"frame_kl": 0.25, "argmax_agreement": 0.9, "spoken_agreement": 0.7991, "shift_ms": 120}
AGREEMENT = {
    "wer_against_teacher": 0.2346,
    "only_teacher_words": 17,
    "only_student_words": 19,
    "both_words": 3,
    "neither_words": 4,
    "only_teacher_most": [["A|B", 2]],
    "only_student_most": [],
    "frame_kl": 5.4321,
    "argmax_agreement": 0.3474,
    "spoken_agreement": None,
    "at_best_shift": SHIFTED,
}


def context(chunk: int, left: int, wer: float, trained: bool = True, right: int | None = None) -> dict:
    frames = {"chunk_frames": chunk, "left_context_frames": left, "chunk_ms": 40 * chunk, "left_context_ms": 40 * left}
    if right is not None:  # reports of earlier versions do not have it
        frames |= {"right_context_frames": right, "right_context_ms": 40 * right}
    return {"set": "test", **frames, "wer": wer, "trained": trained, "delay": DELAY if trained else None}


@pytest.fixture
def measured(report) -> Report:
    """A report in which everything was measured, on test, of student-kd."""
    found = report.sets["test"]
    student = {
        **found["student_kd"],
        "delay": DELAY,
        "stability": {"revised_per_word": 0.125, "grown_per_word": None, "utterances": 5},
        "trailing_silence": {
            "seconds": 2.0, "utterances": 5, "digital": {"extra_words": 3}, "room": {"extra_words": 41},
        },
        "silent_streams": {"seconds": 8.0, "digital": {"extra_words": 6}, "room": {"extra_words": 7}},
    }  # fmt: skip
    sets = {"test": {**found, "student_kd": student, "agreement": {"student_kd": AGREEMENT}}}
    models = report.summary["models"]
    matrix = [context(4, 32, 0.3), context(8, 32, 0.21), context(8, 64, 0.1999, False)]
    matrix.append(context(8, 32, 0.1777, False, right=4))
    conditions = [
        {"set": "test", "condition": "clean", "wer": 0.2},
        {"set": "test", "condition": "pink:5", "wer": 0.987},
    ]
    seed = {
        **{"set": "test", "runs": ["a", "b"], "rates": [0.1, 0.12], "mean": 0.11, "deviation": 0.0141},
        **{"lowest": 0.1, "highest": 0.12, "low": 0.08, "high": 0.15},
    }
    return Report(
        {
            **report.summary,
            "test_sets": {**report.sets, **sets},
            "models": {**models, "student_kd": {**models["student_kd"], "cost": COST}},
            "matrix": {"student_kd": matrix},
            "robustness": {"student_kd": conditions},
            "seeds": {"kd": [seed]},
        },
        report.rows,
    )


ROWS = {
    "delay": [
        "student-kd 320 ms 123 (234) −77 (234) – 345 (234) 123 (234) 123 (234)",
        "student-kd 0.12 – 3 41 5 6 7",
    ],
    "cost": ["student-kd 0.94 M 29.2 M 3.8 MB 1.0 MB* 0.019 – 580 MB (550) 7.2 ms 11.3 ms –"],
    "agreement": ["student-kd 23.46 17 19 3 4", "student-kd 5.432 34.7 – 120 0.250 90.0 79.9"],
    "matrix": ["160 30.00 – 123 (234) 345 (234) 123 (234)", "320 21.00 19.99 * – – –", "320 + 160 17.77 * – – – –"],
    "robustness": ["clean 20.00", "pink:5 98.70"],
    "seeds": ["kd test 2 11.00 1.41 10.00–12.00 [8.00, 15.00]"],
}


def section(text: str, name: str) -> str:
    """The words of a section of the page, without its elements."""
    found = re.search(rf'<section id="{name}".*?</section>', text, re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split()) if found else ""


@pytest.mark.parametrize("name", ROWS)
def test_every_number_stands_in_its_section(measured, name):
    words = section(page(measured), name)
    assert [row for row in ROWS[name] if row not in words] == []


def test_markdown_has_the_same_rows(measured):
    text = markdown(assemble(measured))
    lines = {" ".join(line.replace("|", " ").split()) for line in text.splitlines() if line.startswith("|")}
    assert [row for rows in ROWS.values() for row in rows if row not in lines] == []
    for table in (part for part in text.split("\n\n") if part.startswith("|")):
        assert len({line.count(" | ") for line in table.splitlines()}) == 1
    assert "(pink noise, −60 dBFS), follow" in text
    assert "2 s of digital silence" in text
    assert "in 8 s after ten of the utterances" in text
    assert "- Most frequent words that the teacher has right and student-kd has wrong: A\\|B (2)" in text
    assert "- student-kd: energy: no counters" in text


def test_what_was_not_measured_has_no_section(report):
    text = page(report)
    assert [name for name in ("delay", "matrix", "robustness", "seeds") if section(text, name)] == []
    costs = {"parameters", "size_bytes", "real_time_factor", "streaming_real_time_factor", "chunk_ms"}
    models = {
        key: {**{name: value for name, value in model.items() if name != "cost"}, **dict.fromkeys(costs)}
        for key, model in report.summary["models"].items()
    }
    assert section(page(Report({**report.summary, "models": models}, report.rows)), "cost") == ""


def test_a_system_without_chunks_is_measured_on_whole_utterances(measured):
    found = measured.sets["test"]
    whole = {**found["student_kd"], "delay": {**DELAY, "chunk_frames": None, "available": None}}
    sets = {"test": {**found, "student_kd": whole}}
    text = markdown(assemble(Report({**measured.summary, "test_sets": sets}, measured.rows)))
    assert "| student-kd | whole | 123 (234) | −77 (234) | – | – | – | – |" in text
