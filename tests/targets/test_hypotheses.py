"""Hypotheses: merging, weights, what a folder of them refuses."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.errors import TargetsError
from asr_kd.files import json_lines, read_json, write_json
from asr_kd.targets.hypotheses import (
    HYPOTHESES_INDEX,
    HypothesesInfo,
    HypothesesSource,
    HypothesisStore,
    TextHypothesis,
    distinct,
    hypothesis_rows,
    weights_of,
)
from asr_kd.targets.shard_manifest import ShardEntry
from asr_kd.targets.storage import open_storage

scored = st.lists(st.builds(TextHypothesis, st.sampled_from(["A", "B", "C D", "", " "]), st.floats(-20, 0)), max_size=8)


def test_equal_texts_become_one_with_their_probabilities_added():
    found = distinct(
        [TextHypothesis("A", math.log(0.3)), TextHypothesis("B", math.log(0.4)), TextHypothesis("A", math.log(0.3))]
    )
    assert [item.text for item in found] == ["A", "B"]
    assert found[0].score == pytest.approx(math.log(0.6))
    assert weights_of(found) == pytest.approx([0.6, 0.4])


@given(scored, st.integers(1, 5))
def test_the_best_come_first_each_once_with_words(hypotheses, most):
    found = distinct(hypotheses, most)
    assert len(found) == len({item.text for item in found}) <= most
    assert all(item.text.strip() for item in found)
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
    if found:
        assert sum(weights_of(found)) == pytest.approx(1.0)


def test_temperature_flattens_and_sharpens():
    hypotheses = [TextHypothesis("A", -1.0), TextHypothesis("B", -2.0)]
    assert weights_of(hypotheses) == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))])
    assert weights_of(hypotheses, 1000.0) == pytest.approx([0.5, 0.5], abs=1e-3)
    assert weights_of(hypotheses, 0.01) == pytest.approx([1.0, 0.0])
    assert weights_of([TextHypothesis("A", -1e5), TextHypothesis("B", -2e5)]) == [1.0, 0.0]


def test_without_scores_the_order_stays_and_all_weigh_the_same():
    found = distinct([TextHypothesis("B"), TextHypothesis("A"), TextHypothesis("B")])
    assert [item.text for item in found] == ["B", "A"]
    assert weights_of(found) == [0.5, 0.5]


@pytest.fixture
def folder(tmp_path):
    rows = {"u1": [TextHypothesis("ÄB C", -0.5), TextHypothesis("D", -1.5)], "u2": []}
    content = json_lines(hypothesis_rows(rows, [])).encode()
    place = open_storage(tmp_path)
    place.write("shard-00000.jsonl", content)
    info = HypothesesInfo(
        source=HypothesesSource(kind="imported", name="x", sha256="0" * 64),
        normalizer="librispeech",
        manifest_sha256="m",
        settings={},
        planned_shards=1,
        shards=(ShardEntry(file="shard-00000.jsonl", sha256=place.sha256("shard-00000.jsonl") or "", utterances=2),),
    )
    write_json(tmp_path / HYPOTHESES_INDEX, info.model_dump(mode="json"))
    return tmp_path


def test_what_was_written_is_read(folder):
    store = HypothesisStore.open(folder, normalizer="librispeech", source_sha256="0" * 64)
    assert store["u1"] == [TextHypothesis("ÄB C", -0.5), TextHypothesis("D", -1.5)]
    assert store["u2"] == []
    assert list(store) == ["u1", "u2"]
    assert len(store) == 2
    assert "u3" not in store
    assert store.info == HypothesisStore.open(f"file://{folder}").info


def edited(folder, **changes):
    path = folder / HYPOTHESES_INDEX
    write_json(path, {**read_json(path), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 1}, "format version 1; expected version 2"),
        ({"format": "other"}, "does not describe hypotheses"),
        ({"planned_shards": 3}, "unfinished: 1 of 3 shards"),
        ({"normalizer": "loud"}, "description is damaged"),
        ({"shards": [{"file": "../shard-00000.jsonl", "sha256": "", "utterances": 1}]}, "description is damaged"),
    ],
)
def test_a_wrong_description_is_refused(folder, changes, message):
    edited(folder, **changes)
    with pytest.raises(TargetsError, match=message):
        HypothesisStore.open(folder)


def test_another_normalizer_or_teacher_is_refused_naming_both(folder):
    with pytest.raises(TargetsError, match=r"'librispeech'; expected 'none'"):
        HypothesisStore.open(folder, normalizer="none")
    with pytest.raises(TargetsError, match=r"000000000000….*expected weights 111111111111…"):
        HypothesisStore.open(folder, source_sha256="1" * 64)


def test_damage_is_found(folder):
    part = folder / "shard-00000.jsonl"
    part.write_bytes(part.read_bytes().replace(b"-0.5", b"-0.6"))
    with pytest.raises(TargetsError, match=r"shard-00000\.jsonl is missing or damaged"):
        HypothesisStore.open(folder)
    part.unlink()
    with pytest.raises(TargetsError, match="missing or damaged"):
        HypothesisStore.open(folder)
    (folder / HYPOTHESES_INDEX).write_text("{")
    with pytest.raises(TargetsError, match="cannot be read"):
        HypothesisStore.open(folder)
    (folder / HYPOTHESES_INDEX).unlink()
    with pytest.raises(TargetsError, match="no hypotheses here"):
        HypothesisStore.open(folder)
