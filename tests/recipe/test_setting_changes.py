"""An upgrade that adds settings leaves earlier results as they are; other changes of settings repeat the work."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.recipe.setting_changes import first_difference, without_new_defaults
from asr_kd.recipe.stage import StageTask, run_task

OLD = {"train": {"epochs": 3, "stages": [{"rate": 0.1}]}, "seed": 1}


@pytest.mark.parametrize(
    ("settings", "stated", "is_new"),
    [
        ({"train": {"epochs": 3, "stages": [{"rate": 0.1}]}, "seed": 1}, {"seed": 1}, False),
        ({"train": {"epochs": 3, "stages": [{"rate": 0.1}], "share": 0.0}, "seed": 1}, {"seed": 1}, False),
        ({"train": {"epochs": 3, "stages": [{"rate": 0.1}]}, "seed": 1, "mix": {"share": 0}}, {}, False),
        (
            {"train": {"epochs": 3, "stages": [{"rate": 0.1, "mix": None}]}, "seed": 1},
            {"train": {"stages": [{}]}},
            False,
        ),
        ({"train": {"epochs": 3, "stages": [{"rate": 0.1}], "share": 0.5}, "seed": 1}, {"train": {"share": 0.5}}, True),
        ({"train": {"epochs": 4, "stages": [{"rate": 0.1}]}, "seed": 1}, {"seed": 1}, True),
        ({"train": {"epochs": 3, "stages": [{"rate": 0.1}, {"rate": 0.2}]}, "seed": 1}, {"seed": 1}, True),
        ({"train": {"epochs": 3, "stages": [{"rate": 0.1}]}}, {}, True),
    ],
)
def test_a_new_setting_repeats_the_work_only_where_it_is_not_at_its_default(tmp_path, settings, stated, is_new):
    (tmp_path / "result").mkdir()
    ran = []
    old = StageTask(
        "student", "s", tmp_path, tmp_path / "result", settings=OLD, inputs=list, run=ran.append, results=(), stated={}
    )
    new = replace(old, settings=settings, stated=stated)
    run_task(old, False, print, lambda: None)
    for _ in range(2):  # the second time with the status that the first one left
        run_task(new, False, print, lambda: None)
        (tmp_path / "result").mkdir(exist_ok=True)
    assert len(ran) == 1 + is_new
    assert not run_task(new, False, print, lambda: None)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)


@given(plain, plain)
def test_a_difference_is_named_exactly_where_there_is_one(old, new):
    assert (first_difference(old, new) is None) == (old == new)


@given(plain, plain)
def test_nothing_is_left_out_that_is_stated_or_was_there(settings, earlier):
    assert without_new_defaults(settings, earlier, settings) == settings
    assert without_new_defaults(settings, settings, {}) == settings


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b was 1, is 2"),
        ({"a": {}}, {"a": {"b": None}}, "a.b was not there, is None"),
        ({"a": {"b": 1}}, {"a": {}}, "a.b was 1, is not there"),
        ({"a": [1]}, {"a": [1, 2]}, "a was [1], is [1, 2]"),
    ],
)
def test_the_message_of_a_difference(old, new, message):
    assert first_difference(old, new) == message


def test_settings_that_come_back_restore_the_newest_result_of_theirs(tmp_path):
    results = iter("abcd")

    def make(folder):
        folder.mkdir()
        (folder / "text").write_text(next(results))

    first = StageTask("student", "s", tmp_path, tmp_path / "result", {"rate": 1}, inputs=list, run=make, results=())
    other = replace(first, settings={"rate": 2})
    steps = [(first, False, "a"), (first, True, "b"), (other, False, "c")]  # --force replaces a by b
    steps += [(first, False, "b"), (other, False, "c"), (first, False, "b")]
    for task, force, expected in steps:
        run_task(task, force, print, lambda: None)
        assert (tmp_path / "result" / "text").read_text() == expected
