"""Damaged stores of soft targets and hypotheses: an error, or exactly what was stored."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from asr_kd.errors import AsrKdError
from asr_kd.files import json_text, sha256_of_file
from asr_kd.targets.extract import extract
from asr_kd.targets.hypotheses import HypothesisStore
from asr_kd.targets.importing import import_hypotheses
from asr_kd.targets.store import Store
from tests.helpers.mutations import bounded_memory, mutations

COUNT = 600
"""Files of each kind."""


def everything(folder: Path) -> dict[str, list[torch.Tensor]]:
    store = Store.open(folder)
    store.verify()
    return {
        f"{name} {variant}": [part.clone() for part in store.read(name, variant)[:2]]
        for name in store.ids()
        for variant in store.info.variants
    }


def same(one: dict[str, list[torch.Tensor]], other: dict[str, list[torch.Tensor]]) -> bool:
    return one.keys() == other.keys() and all(
        all(torch.equal(a, b) for a, b in zip(one[key], other[key], strict=True)) for key in one
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["store.json", "shard-00000.safetensors"])
def test_a_fuzzed_store_is_refused_or_gives_what_was_stored(tmp_path, teacher, corpus, settings, name):
    """600 damaged copies of the index and of a shard."""
    extract(teacher, corpus, settings, tmp_path)
    stored, path = everything(tmp_path), tmp_path / name
    content = path.read_bytes()
    outcomes: Counter[str] = Counter()
    with bounded_memory():
        for number, changed in enumerate(mutations(content, name, COUNT)):
            path.write_bytes(changed)
            try:
                assert same(everything(tmp_path), stored), number
                outcomes["same"] += 1
            except AsrKdError:
                outcomes["refused"] += 1
    assert outcomes["refused"] > 0.9 * COUNT, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["store.json", "shard-00000.safetensors"])
def test_a_fuzzed_store_with_hashes_that_fit_is_refused_or_read(tmp_path, teacher, corpus, settings, name):
    """600 copies each, whose hashes were made to fit, as a hostile writer would: no traceback, no memory."""
    extract(teacher, corpus, settings, tmp_path)
    path, index = tmp_path / name, tmp_path / "store.json"
    content, described = path.read_bytes(), json.loads(index.read_text())
    outcomes: Counter[str] = Counter()
    with bounded_memory():
        for changed in mutations(content, f"hostile {name}", COUNT):
            if name == "store.json":
                try:
                    given = json.loads(changed)
                except (ValueError, RecursionError):
                    continue
                if not isinstance(given, dict):
                    continue
                path.write_text(json_text(given))
            else:
                path.write_bytes(changed)
                entry = described["shards"][0] | {"sha256": sha256_of_file(path), "num_bytes": len(changed)}
                index.write_text(json_text(described | {"shards": [entry, *described["shards"][1:]]}))
            try:
                everything(tmp_path)
                outcomes["read"] += 1
            except AsrKdError:
                outcomes["refused"] += 1
    assert outcomes["refused"] > 20, outcomes


@pytest.mark.slow
def test_fuzzed_hypotheses_are_refused_or_the_same(tmp_path, corpus):
    """600 damaged copies each of the index and of a shard."""
    rows = [{"id": u.id, "nbest": [{"text": "one two", "score": -0.5}, {"text": "one", "score": -2}]} for u in corpus]
    (tmp_path / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_hypotheses(tmp_path / "others.jsonl", corpus, tmp_path / "in", "librispeech")
    stored = {name: HypothesisStore.open(tmp_path / "in")[name] for name in (u.id for u in corpus)}
    with bounded_memory():
        for name in ("hypotheses.json", "shard-00000.jsonl"):
            path = tmp_path / "in" / name
            content = path.read_bytes()
            for number, changed in enumerate(mutations(content, name, COUNT)):
                path.write_bytes(changed)
                try:
                    store = HypothesisStore.open(tmp_path / "in")
                    assert {id_: store[id_] for id_ in store} == stored, number
                except AsrKdError:
                    continue
            path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["others.jsonl", "text", "others.trn", "others.ctm", "others.json"])
def test_fuzzed_hypotheses_of_other_systems_are_refused_or_well_formed(tmp_path, corpus, suffix):
    """600 damaged files of each form that `targets import` reads."""
    lines = {
        "others.jsonl": [json.dumps({"id": u.id, "text": "one two"}) for u in corpus],
        "text": [f"{u.id} one two" for u in corpus],
        "others.trn": [f"one two ({u.id})" for u in corpus],
        "others.ctm": [f"{u.id} 1 0.{n} 0.1 {word}" for u in corpus for n, word in enumerate(("one", "two"), 1)],
        "others.json": [json.dumps({"text": "one two", "segments": [{"start": 0.0, "end": 1.0, "text": "one two"}]})],
    }[suffix]
    source = tmp_path / suffix
    if suffix == "others.json":
        source = tmp_path / "whisper"
        source.mkdir()
        target = source / f"{corpus[0].audio.stem}.json"
    else:
        target = source
    with bounded_memory():
        for number, changed in enumerate(mutations("".join(f"{line}\n" for line in lines).encode(), suffix, COUNT)):
            target.write_bytes(changed)
            try:
                import_hypotheses(source, corpus, tmp_path / "in", "librispeech", min_coverage=0.0)
            except AsrKdError:
                continue
            store = HypothesisStore.open(tmp_path / "in")
            ids = {utterance.id for utterance in corpus}
            assert set(store) <= ids, number
            assert all(isinstance(item.text, str) for id_ in store for item in store[id_]), number
