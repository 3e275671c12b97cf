"""One flipped bit in any JSON that a run writes and reads back: an error or work done again, never another value."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asr_kd.corpora.corpus import read_prepared
from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import AsrKdError
from asr_kd.evaluation.report import read_results
from asr_kd.evaluation.report.loading import open_report
from asr_kd.files import CONTENT_SHA256, hashed, json_text, parse_json, read_json, unhashed, write_json
from asr_kd.models.weights import load_model
from asr_kd.recipe.sweep import append_row, read_rows
from asr_kd.runtime.bundle import read_bundle
from asr_kd.targets.hypotheses import HypothesisStore, TextHypothesis
from asr_kd.targets.importing import import_hypotheses
from asr_kd.targets.store_index import StoreInfo
from asr_kd.training.checkpoint import load_newest
from tests.helpers.jobs import Recorder
from tests.helpers.tiny_run import Run, command, one_line

FLIPS = 25
READERS: dict[str, Callable[[Path], object]] = {
    "manifests/corpus.json": lambda path: read_prepared(path.parents[1]),
    "manifests/train.jsonl": lambda path: read_prepared(path.parents[1]),
    "manifests/tokens.txt": lambda path: read_prepared(path.parents[1]),
    "targets/teacher/store.json": lambda path: StoreInfo.read(path.parent),
    "teachers/teacher/model/model.json": lambda path: load_model(path.parent),
    "students/student-kd/model/model.json": lambda path: load_model(path.parent),
    "report/results.json": lambda path: read_results(path.parent),
    "report/hypotheses/test/student-kd.jsonl": lambda path: open_report(path.parents[2]),
    "export/student-kd/bundle.json": lambda path: read_bundle(path.parent),
}


def flips(content: bytes, seed: int, count: int = FLIPS):
    """Copies of a file with one bit flipped, at places that a seed draws."""
    generator = random.Random(seed)
    for _ in range(count):
        changed = bytearray(content)
        changed[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        yield bytes(changed)


def same_json(one: bytes, other: bytes) -> bool:
    """Whether both are the same data: 1e-05 is 1E-05."""
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_an_error(finished: Run, tmp_path, name):
    folder = tmp_path / name.split("/")[0]
    shutil.copytree(finished.file(name.split("/")[0]), folder)
    path = tmp_path / name
    content, read = path.read_bytes(), READERS[name]
    read(path)
    for changed in flips(content, 1):
        path.write_bytes(changed)
        if same_json(content, changed):
            continue
        with pytest.raises(AsrKdError) as caught:
            read(path)
        assert caught.value.where, "the message names a file"


def test_a_flipped_bit_in_an_index_of_hypotheses_is_an_error(tmp_path):
    (tmp_path / "others.jsonl").write_text('{"id": "a", "text": "one"}\n')
    utterance = Utterance("a", tmp_path / "a.wav", 1.0, None, "s")
    import_hypotheses(tmp_path / "others.jsonl", [utterance], tmp_path / "in", "librispeech")
    assert HypothesisStore.open(tmp_path / "in")["a"] == [TextHypothesis("ONE")]
    for name in ("hypotheses.json", "shard-00000.jsonl"):
        content = (tmp_path / "in" / name).read_bytes()
        for changed in flips(content, 2):
            (tmp_path / "in" / name).write_bytes(changed)
            with pytest.raises(AsrKdError):
                HypothesisStore.open(tmp_path / "in")
        (tmp_path / "in" / name).write_bytes(content)


def test_a_flipped_bit_in_a_row_of_a_sweep_is_an_error(tmp_path):
    row = {"key": "k", "row": "r", "varied": {"a": 1}, "seed": 1, "sets": {"dev": {"wer": 0.25}}}
    append_row(tmp_path / "rows.jsonl", row)
    assert read_rows(tmp_path / "rows.jsonl") == [row]
    content = (tmp_path / "rows.jsonl").read_bytes()
    for changed in flips(content.rstrip(), 3):
        (tmp_path / "rows.jsonl").write_bytes(changed)
        if same_json(content, changed):
            continue
        with pytest.raises(AsrKdError):
            read_rows(tmp_path / "rows.jsonl")


def test_a_changed_number_in_a_store_is_refused_and_verify_says_so(copy):
    path = copy.file("targets", "teacher", "store.json")
    path.write_text(path.read_text().replace('"levels": 24', '"levels": 34'))
    assert CONTENT_SHA256 in one_line(command("targets", "verify", str(path.parent)))
    with pytest.raises(AsrKdError, match=CONTENT_SHA256):
        StoreInfo.read(path.parent)


def test_damaged_files_of_prepare_are_written_anew(copy):
    for name in ("corpus.json", "train.jsonl"):
        path = copy.file("manifests", name)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        outcome = copy.command("prepare")
        assert outcome.code == 0, outcome.err
        assert outcome.did == ["prepare: again"]
        assert path.read_bytes() == content


def test_a_damaged_description_of_a_checkpoint_is_named(copy):
    checkpoints = copy.file("students", "student-kd", "checkpoints")
    newest, *older = sorted(checkpoints.glob("step-*"), reverse=True)
    for folder in older:
        shutil.rmtree(folder)
    model = torch.nn.Linear(1, 1)
    path = newest / "checkpoint.json"
    for changed in flips(path.read_bytes(), 4):
        path.write_bytes(changed)
        messages = Recorder()
        with pytest.raises(AsrKdError, match="none of 1 checkpoints is intact"):
            load_newest(checkpoints, model, torch.optim.SGD(model.parameters()), "", messages)
        assert str(newest) in messages.lines[0]


def test_hashed_json_is_its_data_and_nothing_else(tmp_path):
    data = {"b": [1, 2.5, None, float("inf")], "a": {"ä": True}, "1": {"2": 3}}
    write_json(tmp_path / "x.json", data)
    assert read_json(tmp_path / "x.json") == data == unhashed(hashed(data)) == parse_json(json_text(data))
    assert list(read_json(tmp_path / "x.json")) == list(data)
    assert json_text(hashed(data)) == json_text(data)
    for wrong in ("[]", "{}", '{"a": 1}', "[" * 100_000, "\xff", ""):
        with pytest.raises(ValueError, match=r"\w"):
            parse_json(wrong)
