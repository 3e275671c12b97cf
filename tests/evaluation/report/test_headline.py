"""The headline states what the intervals support."""

import pytest

from asr_kd.evaluation.report import Report
from asr_kd.evaluation.report.assemble import headline


def headline_of(report, difference=(-0.02, -0.03, -0.01), gap=(0.5, 0.2, 0.8), reason=None):
    """The headline for a difference (value, low, high) and a gap recovered."""
    wer, low, high = difference
    value, gap_low, gap_high = gap
    found = report.sets["test"]
    pair = {
        **found["comparisons"][0],
        "difference": {"wer": wer, "low": low, "high": high},
        "gap_recovered": value,
        "gap_recovered_low": gap_low,
        "gap_recovered_high": gap_high,
        "gap_recovered_reason": reason,
    }
    changed = Report({**report.summary, "test_sets": {"test": {**found, "comparisons": [pair]}}})
    return headline(changed)


@pytest.mark.parametrize(
    ("difference", "title"),
    [
        ((-0.021, -0.03, -0.01), "Distillation reduces the word error rate by 2.1 points"),
        ((0.021, 0.01, 0.03), "Distillation increases the word error rate by 2.1 points"),
        ((-0.021, -0.03, 0.001), "Distillation made no significant difference on this test set"),
        ((0.0, 0.0, 0.0), "Distillation made no significant difference on this test set"),
        ((-0.021, None, None), "Distillation made no significant difference on this test set"),
    ],
)
def test_the_title_needs_an_interval_without_0(report, difference, title):
    assert headline_of(report, difference)[0] == title


def test_sentences_give_rates_difference_and_gap(report):
    sentences = headline_of(report)[1]
    assert sentences[0].startswith("On test, student-kd has a WER of ")
    assert "−2.00 points, 95 % interval −3.00 to −1.00" in sentences[1]
    assert "its sign is significant on this set" in sentences[1]
    assert "recovers 50 % of the gap" in sentences[2]
    assert sentences[2].endswith("95 % interval 20 to 80 %.")


def test_a_gap_that_may_be_nothing_or_is_undefined_is_stated(report):
    assert "recovering nothing is not excluded" in headline_of(report, gap=(0.5, -0.2, 0.8))[1][2]
    worse = headline_of(report, gap=(-0.8, -1.39, -0.39))[1][2]
    assert worse.endswith("95 % interval −139 to −39 %: the student with distillation is farther from the teacher.")
    undefined = headline_of(report, gap=(None, None, None), reason="the teacher's lead of -1.00 points holds 0")[1][2]
    assert undefined.endswith("is undefined: the teacher's lead of −1.00 points holds 0.")


def test_without_a_pair_it_states_the_rate(report):
    found = {**report.sets["test"], "comparisons": []}
    alone = Report({**report.summary, "test_sets": {"test": found}})
    assert headline(alone)[0].startswith("student-kd has a word error rate of ")
    assert headline(Report({**report.summary, "test_sets": {}}))[0] == "No set was evaluated"
