"""What was measured beside errors is on the page, number by number, when results.json has it."""

import re

import pytest

from asr_kd.evaluation.report import Report
from asr_kd.evaluation.report.page import page

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
    "macs_per_second": 29_220_000,
    "size_bytes": {"fp32": 3_758_224, "int8": None},
    "rtf": {"whole": 0.019, "streamed": None},
    "rss_bytes": None,
    "chunk_ms": {"p50": 7.24, "p99": 11.3},
    "energy_j_per_hour": None,
    "energy_reason": "no counters",
}
FRAMES = {
    "wer_against_teacher": 0.2346,
    "only_teacher_words": 17,
    "only_student_words": 19,
    "frame_kl": 5.4321,
    "argmax_agreement": 0.3474,
    "spoken_agreement": 0.0731,
    "at_best_shift": {"spoken_agreement": 0.7991, "shift_ms": 120},
}


def context(chunk: int, left: int, wer: float, trained: bool = True) -> dict:
    frames = {"chunk_frames": chunk, "left_context_frames": left, "chunk_ms": 40 * chunk, "left_context_ms": 40 * left}
    return {"set": "test", **frames, "wer": wer, "trained": trained}


@pytest.fixture
def measured(report) -> Report:
    """A report in which everything was measured, on test, of student-kd."""
    found = report.sets["test"]
    student = {
        **found["student_kd"],
        "delay": DELAY,
        "stability": {"revised_per_word": 0.0123, "grown_per_word": 0.45},
        "trailing_silence": {"digital": {"extra_words": 3}, "room": {"extra_words": 41}},
    }
    sets = {"test": {**found, "student_kd": student, "agreement": {"student_kd": FRAMES}}, "dev": report.sets["dev"]}
    models = report.summary["models"]
    matrix = [context(4, 32, 0.3), context(4, 64, 0.25), context(8, 32, 0.21, False), context(8, 64, 0.1999)]
    conditions = [
        {"set": "test", "condition": "clean", "wer": 0.2},
        {"set": "test", "condition": "pink:5", "wer": 0.987},
    ]
    seed = {"set": "test", "rates": [0.1, 0.12], "mean": 0.11, "low": 0.08, "high": 0.15}
    return Report(
        {
            **report.summary,
            "test_sets": sets,
            "models": {**models, "student_kd": {**models["student_kd"], "cost": COST}},
            "matrix": {"student_kd": matrix},
            "robustness": {"student_kd": conditions},
            "seeds": {"kd": [seed]},
        },
        report.rows,
    )


def section(text: str, name: str) -> str:
    """The words of a section, without its elements."""
    found = re.search(rf'<section id="{name}".*?</section>', text, re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split()) if found else ""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("delay", ["320 ms 123 (234) −77 (234) – 345 (234)", "0.012 0.45 3 41", "Emission", "Available"]),
        ("cost", ["29.22 M 3.8 MB – 0.019 – – 7.2 ms 11.3 ms not readable here"]),
        ("agreement", ["23.46 17 19 5.432 34.74 7.31 79.91 (120 ms)"]),
        ("matrix", ["160 ms 30.00 25.00", "320 ms 21.00 * 19.99", "back 1280 ms", "milliseconds of audio a chunk"]),
        ("robustness", ["clean 20.00", "pink:5 98.70"]),
        ("seeds", ["kd test 10.00, 12.00 11.00 [8.00, 15.00]"]),
    ],
)
def test_every_number_stands_in_its_section(measured, name, said):
    words = section(page(measured), name)
    assert [part for part in said if part not in words] == []


def test_what_was_not_measured_has_no_section(report):
    text = page(report)
    assert [name for name in ("delay", "matrix", "robustness", "seeds") if section(text, name)] == []
    costs = {"cost", "size_bytes", "parameters", "chunk_ms"}
    models = {
        key: {**{name: value for name, value in model.items() if name != "cost"}, **dict.fromkeys(costs - {"cost"})}
        for key, model in report.summary["models"].items()
    }
    assert section(page(Report({**report.summary, "models": models}, report.rows)), "cost") == ""
