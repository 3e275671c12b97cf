"""A recipe keeps posteriors pooled over transcripts when a student learns from them, and only then."""

import pytest

from asr_kd.recipe.settings import load_recipe
from asr_kd.targets import Store
from tests.helpers.tiny_run import RECIPE

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


def test_a_store_without_them_is_extracted_anew(copy):
    before = Store.open(copy.file("targets", "teacher"))
    assert before.info.transcripts_sha256 is None
    outcome = copy.command("run", POOLED, "--to", "extract")
    assert outcome.code == 0, outcome.err
    assert outcome.did == ["prepare: skipped", "teacher: skipped", "extract teacher: starts"]
    after = Store.open(copy.file("targets", "teacher"))
    assert after.info.transcripts_sha256 is not None
    assert after.info.frames == before.info.frames
    assert after.info.bytes_per_frame > before.info.bytes_per_frame


def test_students_that_read_what_they_read_before_are_not_trained_again(copy):
    outcome = copy.command("run", "targets.pooled=true", "targets.layers=[1]")
    assert outcome.code == 0, outcome.err
    assert [did for did in outcome.did if "starts" in did] == ["extract teacher: starts"]
    assert Store.open(copy.file("targets", "teacher")).info.layers == {1: 16}
