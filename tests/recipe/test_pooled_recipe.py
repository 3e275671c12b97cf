"""A recipe keeps posteriors pooled over transcripts when a student learns from them, and only then."""

import pytest

from asr_kd.recipe.settings import load_recipe
from asr_kd.targets import Store
from tests.recipe.tiny_run import RECIPE

POOLED = "students.student-kd.distill.objectives={pooled_kl: {}}"


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [
        ([], False),
        (["students.student-kd.distill.objectives={frame_kl: {}}"], False),
        ([POOLED], True),
        ([POOLED, "students.student-kd.distill.targets=dense"], False),
        ([POOLED, "students.student-kd.distill.kd_weight=0"], False),
    ],
)
def test_a_student_that_needs_them_is_enough(overrides, needed):
    assert load_recipe(RECIPE, overrides).needs_pooled("teacher") is needed


def test_they_are_extracted_anew_and_a_student_learns_from_them(copy):
    before = Store.open(copy.file("targets", "teacher"))
    assert before.info.transcripts_sha256 is None
    outcome = copy.command("run", POOLED, "evaluate.rtf_utterances=1")
    assert outcome.code == 0, outcome.err
    assert "extract teacher: starts" in outcome.did
    assert "student student-kd: starts" in outcome.did
    assert "student student-hard: skipped" in outcome.did
    after = Store.open(copy.file("targets", "teacher"))
    assert after.info.transcripts_sha256 is not None
    assert after.info.frames == before.info.frames
    assert after.info.bytes_per_frame > before.info.bytes_per_frame
