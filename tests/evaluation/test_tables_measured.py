"""Tables of what was measured: of everything, of parts, and of reports from before."""

import re

from asr_kd.evaluation.tables_measured import cost_sections, set_sections, sweep_sections

PART = {"count": 10, "median_ms": 120.0, "p90_ms": 160.0}
NONE = {"count": 0, "median_ms": None, "p90_ms": None}
PARTS = {"tokens": PART, "first_token": PART, "end_of_speech": NONE}
DELAY = {"chunk_frames": 8, "emission": PARTS, "available": {**PARTS, "tokens": {**PART, "median_ms": 282.5}}}
BEST = {"frame_kl": 0.25, "argmax_agreement": 0.9, "spoken_agreement": None}
SET = {
    "teacher": {"name": "big | one", "words": 9, "delay": None, "delay_reason": "it is the teacher"},
    "student_kd": {
        "name": "kd",
        "words": 9,
        "delay": DELAY,
        "stability": {"revised_per_word": 0.125, "grown_per_word": None, "utterances": 5},
        "trailing_silence": {
            "seconds": 2.0, "utterances": 5, "digital": {"extra_words": 3}, "room": {"extra_words": 4},
        },
    },
    "agreement": {"student_kd": {**BEST, "at_best_shift": {**BEST, "shift_ms": 120}}},
    "utterances": 6,
}  # fmt: skip
COST = {
    "parameters": 940_000,
    "macs_per_second": 29.2e6,
    "macs_of": "one chunk",
    "size_bytes": {"fp32": 3_800_000, "int8": 1_000_000, "int8_of": "estimate: a byte for each parameter"},
    "rtf": {"whole": 0.01, "streamed": None},
    "rss_bytes": 580_000_000,
    "rss_before_bytes": 550_000_000,
    "rss_reason": None,
    "chunk_ms": None,
    "energy_j_per_hour": None,
    "energy_reason": "not readable here",
}


def rows_of(sections):
    return [line for section in sections for line in section.splitlines() if line.startswith("|")]


def same_widths(sections):
    widths = [{line.count(" | ") for line in rows_of([section])} for section in sections if section.startswith("|")]
    return bool(widths) and all(len(found) == 1 for found in widths)


def test_a_set_with_everything():
    sections = list(set_sections(SET))
    assert same_widths(sections)
    rows = rows_of(sections)
    assert "| kd | 320 ms | 120 (160) | 120 (160) | – | 282 (160) | 120 (160) | – |" in rows
    assert "| kd | 0.250 | 90.0 | – | 120 | 0.250 | 90.0 | – |" in rows
    assert "| kd | 0.12 | – | 3 | 4 | 5 |" in rows
    assert "2 s of digital silence" in "\n".join(sections)
    assert not any("big" in row for row in rows)  # a teacher without a number has no row


def test_a_set_without_any_of_it_has_no_table():
    assert list(set_sections({"teacher": {"name": "big", "words": 9}, "utterances": 6})) == []
    whole = {**SET["student_kd"], "delay": {**DELAY, "chunk_frames": None, "available": None}}
    assert "| kd | whole | 120 (160) | 120 (160) | – | – | – | – |" in rows_of(set_sections({"s": whole}))


def test_costs_and_why_a_number_is_missing():
    sections = list(cost_sections({"s": {"name": "kd", "cost": COST}, "old": {"name": "x"}}))
    assert same_widths(sections)
    row = "| kd | 0.94 M | 29.2 M | 3.8 MB | 1.0 MB* | 0.01 | – | 580 MB (550) | – | – | – |"
    assert rows_of(sections)[2:] == [row]
    assert "- kd: energy: not readable here" in sections[-1]
    assert not re.search("memory:", sections[-1])
    assert list(cost_sections({"old": {"name": "x"}})) == []


def test_the_matrix_is_a_table_a_system_and_set():
    def row(name, chunk, left, wer, trained):
        delay = DELAY if trained else None
        return {
            "set": name, "chunk_ms": chunk, "left_context_ms": left, "wer": wer, "trained": trained, "delay": delay,
        }  # fmt: skip

    matrix = {
        "s": [row("dev", 320, 640, 0.5, False), row("dev", 320, 2560, 0.25, True), row("test", 80, 640, 1.5, False)]
    }
    sections = list(sweep_sections({"models": {"s": {"name": "kd"}}, "matrix": matrix}))
    assert same_widths(sections)
    assert "| 320 | 50.00 * | 25.00 | 120 (160) | 282 (160) | – |" in rows_of(sections)
    assert "| 80 | 150.00 * | – | – | – |" in rows_of(sections)
    assert next(section for section in sections if section.startswith("## ")).endswith("kd, dev")


def test_conditions_are_rows_and_systems_columns():
    rows = {
        key: [{"set": "dev", "condition": name, "wer": wer} for name, wer in (("clean", low), ("pink:10", 2 * low))]
        for key, low in (("t", 0.1), ("s", 0.2))
    }
    summary = {"models": {"t": {"name": "big"}, "s": {"name": "kd"}}, "robustness": rows}
    sections = list(sweep_sections(summary))
    assert rows_of(sections)[0] == "| Condition | big | kd |"
    assert "| pink:10 | 20.00 | 40.00 |" in rows_of(sections)
    assert list(sweep_sections({"models": {}})) == []
