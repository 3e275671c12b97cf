"""Damaged stores of soft targets and hypotheses: an error, or exactly what was stored."""

import json
from pathlib import Path

import pytest
import torch

from asr_kd.files import sha256_of_file
from asr_kd.targets.extract import extract
from asr_kd.targets.hypotheses import HypothesisStore
from asr_kd.targets.importing import import_hypotheses
from asr_kd.targets.store import Store
from tests.helpers.mutations import copies_that_fit, damaged_copies, outcomes_of

COUNT = 600
"""Copies of each file."""

pytestmark = pytest.mark.slow


def everything(folder: Path) -> dict[str, list[torch.Tensor]]:
    store = Store.open(folder)
    return {
        f"{name} {variant}": [part.clone() for part in store.read(name, variant)[:2]]
        for name in store.ids()
        for variant in store.info.variants
    }


def same(one: dict[str, list[torch.Tensor]], other: dict[str, list[torch.Tensor]]) -> bool:
    return one.keys() == other.keys() and all(
        all(torch.equal(a, b) for a, b in zip(one[key], other[key], strict=True)) for key in one
    )


@pytest.mark.parametrize("name", ["store.json", "shard-00000.safetensors"])
def test_a_fuzzed_store_is_refused_or_gives_what_was_stored(tmp_path, teacher, corpus, settings, name):
    extract(teacher, corpus, settings, tmp_path)
    stored = everything(tmp_path)

    def attempt() -> str:
        assert same(everything(tmp_path), stored)
        return "same"

    outcomes = outcomes_of(damaged_copies(tmp_path / name, COUNT), attempt)
    assert outcomes["refused"] > 0.9 * COUNT, outcomes


@pytest.mark.parametrize("name", ["store.json", "shard-00000.safetensors"])
def test_a_fuzzed_store_with_hashes_that_fit_is_refused_or_read(tmp_path, teacher, corpus, settings, name):
    """No traceback, and no allocation of what a damaged number states."""
    extract(teacher, corpus, settings, tmp_path)
    path = tmp_path / name

    def refer(described):
        entry = described["shards"][0] | {"sha256": sha256_of_file(path), "num_bytes": path.stat().st_size}
        return described | {"shards": [entry, *described["shards"][1:]]}

    def attempt() -> str:
        everything(tmp_path)
        return "read"

    outcomes = outcomes_of(copies_that_fit(path, tmp_path / "store.json", COUNT, refer), attempt)
    assert outcomes["refused"] > 20, outcomes


@pytest.mark.parametrize("name", ["hypotheses.json", "shard-00000.jsonl"])
def test_fuzzed_hypotheses_are_refused_or_the_same(tmp_path, corpus, name):
    rows = [{"id": u.id, "nbest": [{"text": "one two", "score": -0.5}, {"text": "one", "score": -2}]} for u in corpus]
    (tmp_path / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_hypotheses(tmp_path / "others.jsonl", corpus, tmp_path / "in", "librispeech")

    def read() -> dict[str, object]:
        store = HypothesisStore.open(tmp_path / "in")
        return {utterance_id: store[utterance_id] for utterance_id in store}

    stored = read()

    def attempt() -> str:
        assert read() == stored
        return "same"

    assert outcomes_of(damaged_copies(tmp_path / "in" / name, COUNT), attempt)["refused"] > 0.5 * COUNT


@pytest.mark.parametrize("suffix", ["others.jsonl", "text", "others.trn", "others.ctm", "others.json"])
def test_fuzzed_hypotheses_of_other_systems_are_refused_or_well_formed(tmp_path, corpus, suffix):
    """Damaged files of each form that `targets import` reads."""
    lines = {
        "others.jsonl": [json.dumps({"id": u.id, "text": "one two"}) for u in corpus],
        "text": [f"{u.id} one two" for u in corpus],
        "others.trn": [f"one two ({u.id})" for u in corpus],
        "others.ctm": [f"{u.id} 1 0.{n} 0.1 {word}" for u in corpus for n, word in enumerate(("one", "two"), 1)],
        "others.json": [json.dumps({"text": "one two", "segments": [{"start": 0.0, "end": 1.0, "text": "one two"}]})],
    }[suffix]
    source = target = tmp_path / suffix
    if suffix == "others.json":
        source = tmp_path / "whisper"
        source.mkdir()
        target = source / f"{corpus[0].audio.stem}.json"
    target.write_text("".join(f"{line}\n" for line in lines))
    ids = {utterance.id for utterance in corpus}

    def attempt() -> str:
        import_hypotheses(source, corpus, tmp_path / "in", "librispeech", min_coverage=0.0)
        store = HypothesisStore.open(tmp_path / "in")
        assert set(store) <= ids
        assert all(isinstance(item.text, str) for id_ in store for item in store[id_])
        return "read"

    assert outcomes_of(damaged_copies(target, COUNT, seed=suffix), attempt).total() == COUNT
