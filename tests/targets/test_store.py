"""The store: what comes out is what went in; everything that does not match is refused by name."""

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from asr_kd.audio import read_audio
from asr_kd.errors import TargetsError
from asr_kd.features.augment import speed_perturb
from asr_kd.files import json_text
from asr_kd.posteriors import keep_nucleus
from asr_kd.posteriors.measures import sparse_kl
from asr_kd.posteriors.types import map_tensors
from asr_kd.targets import Store, TargetSettings, collate, extract, packing
from asr_kd.targets.inspect import verify
from asr_kd.targets.packing import Codec
from asr_kd.targets.shard import Shard, ShardRow, block_cache, shard_bytes
from asr_kd.targets.stored_arrays import run_teacher
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.fake_teacher import FakeTeacher


@pytest.fixture
def folder(tmp_path, teacher, corpus, settings):
    extract(teacher, corpus, settings, tmp_path / "store")
    return tmp_path / "store"


def edit_index(folder, **changes):
    path = folder / "store.json"
    path.write_text(json_text(json.loads(path.read_text()) | changes))


def test_every_utterance_and_variant_reads_as_the_teachers_posteriors(folder, teacher, corpus):
    store = Store.open(folder, teacher.vocabulary, teacher.sha256)
    assert len(store.info.shards) > 2, "the test must cross shards"
    assert list(store.ids()) == sorted(utterance.id for utterance in corpus)
    for utterance in random.Random(0).sample(corpus, len(corpus)):
        for variant, speed in (("speed-1.0", 1.0), ("speed-0.9", 0.9)):
            dense, _ = run_teacher(teacher, [speed_perturb(read_audio(utterance.audio), speed)])
            stored = store.read(utterance.id, variant, num_frames=int(dense.lens[0]))
            kept = map_tensors(stored, lambda part: part.unsqueeze(0))
            assert (kept.argmax() == dense.log_probs.argmax(-1)[:, : dense.lens[0]]).all()
            assert float(sparse_kl(kept, dense.log_probs[:, : dense.lens[0]]).max()) < 0.01
            exact = keep_nucleus(dense.log_probs.exp(), 0.005, 8)
            uncertain = exact.probs[0, : dense.lens[0], 0] < 0.99
            assert uncertain.any()
            assert (kept.probs[0, uncertain] > 0).sum() == (exact.probs[0, : dense.lens[0]][uncertain] > 0).sum()


def test_shuffled_reads_equal_ordered_reads(folder):
    store, again = Store.open(folder), Store.open(folder)
    ids = list(store.ids())
    ordered = {utterance_id: store.read(utterance_id) for utterance_id in ids}
    random.Random(1).shuffle(ids)
    for utterance_id in ids:
        for one, other in zip(again.read(utterance_id)[:2], ordered[utterance_id][:2], strict=True):
            assert torch.equal(one, other)


def test_a_store_travels_to_worker_processes(folder):
    store = Store.open(folder)
    first = next(store.ids())
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301 - what a DataLoader does
    assert torch.equal(copy.read(first).probs, store.read(first).probs)


def test_batches_pad_with_filler(folder):
    store = Store.open(folder)
    items = [store.read(utterance_id) for utterance_id in store.ids()]
    batch = collate(items, num_frames=100)
    assert batch.lens.tolist() == [item.tokens.shape[0] for item in items]
    assert batch.tokens.shape[:2] == (len(items), 100)
    for row, item in enumerate(items):
        frames, width = item.tokens.shape
        assert torch.equal(batch.probs[row, :frames, :width], item.probs)
        assert torch.equal(batch.tokens[row, :frames, :width], item.tokens)
        assert not batch.probs[row, frames:].any()
        assert not batch.probs[row, :, width:].any()
    with pytest.raises(ValueError, match="do not fit"):
        collate(items, num_frames=3)


def test_another_number_of_frames_is_refused(folder):
    store = Store.open(folder)
    first = next(store.ids())
    frames = len(store.read(first).tokens)
    assert len(store.read(first, num_frames=frames).tokens) == frames
    with pytest.raises(TargetsError, match=f"utterance '{first}' .* has {frames} frames of targets, its student"):
        store.read(first, num_frames=frames + 1)


@pytest.mark.parametrize("cached_blocks", [1, 64])
def test_rows_of_many_blocks_are_read_in_any_order(tmp_path, monkeypatch, cached_blocks):
    monkeypatch.setattr(packing, "BLOCK_FRAMES", 30)
    codec = Codec(300, 0, 5, 0.01)
    generator = torch.Generator().manual_seed(0)
    rows = {}
    for index in range(12):
        kept = keep_nucleus((torch.randn(3 * index, 300, generator=generator) * 4).softmax(-1), 0.01, 5)
        rows[f"u{index:02}"] = [ShardRow(codec.pack(kept.tokens.numpy(), kept.probs.numpy()))]
    path = tmp_path / "shard.safetensors"
    path.write_bytes(shard_bytes(codec, rows))
    assert load(path.read_bytes())["block_rows"].tolist() == [5, 2, 2, 2, 1]
    shard = Shard(path, codec, 1, block_cache(cached_blocks))
    for utterance_id in [*rows, *reversed(rows), "u03", "u11", "u03"]:
        expected = codec.unpack(rows[utterance_id][0].packed)
        for one, other in zip(shard.read(utterance_id, 0)[:2], expected[:2], strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


def test_runs_of_certain_blanks_come_back(tmp_path):
    codec = Codec(4, 0, 3, 0.01)
    certain, other = [0.999, 0.0], [0.6, 0.3]
    for index, probs in enumerate(([certain] * 600, [other, *[certain] * 3, other], [certain, other, certain])):
        tokens = np.array([[0, 2]] * len(probs))
        packed = codec.pack(tokens, np.array(probs, np.float32))
        path = tmp_path / f"shard-{index}.safetensors"
        path.write_bytes(shard_bytes(codec, {"u": [ShardRow(packed)]}))
        stored = Shard(path, codec, 1).read("u", 0)
        assert len(stored.tokens) == len(probs) == packed.num_frames
        assert stored.probs[:, 0].gt(0.9).tolist() == [row is certain for row in probs]


def test_further_arrays_of_any_type_come_back(tmp_path):
    codec = Codec(4, 0, 2, 0.01)
    row = ShardRow(codec.pack(np.array([[1, 0]]), np.array([[1.0, 0.0]], np.float32)))
    utterances = {
        f"u{index}": [row._replace(arrays={"codes": np.full((index, 2), index, np.int16), "score": np.ones(1)})]
        for index in range(4)
    }
    path = tmp_path / "shard.safetensors"
    path.write_bytes(shard_bytes(codec, utterances))
    shard = Shard(path, codec, num_variants=1)
    for utterance_id, rows in utterances.items():
        np.testing.assert_array_equal(shard.read_array("codes", utterance_id, 0), rows[0].arrays["codes"])
        assert shard.read_array("score", utterance_id, 0).dtype == np.float64
    with pytest.raises(TargetsError, match=r"no array 'occupancy'.*codes"):
        shard.read_array("occupancy", "u0", 0)


@pytest.mark.parametrize("vocab_size", [2, 29, 300, 5000])
def test_any_vocabulary_size_packs_into_a_shard(tmp_path, vocab_size):
    codec = Codec(vocab_size, 0, 15, 0.01)
    generator = torch.Generator().manual_seed(0)
    packed = []
    for frames in (0, 7, 20):
        kept = keep_nucleus((torch.randn(frames, vocab_size, generator=generator) * 4).softmax(-1), 0.01, 15)
        packed.append(codec.pack(kept.tokens.numpy(), kept.probs.numpy()))
    path = tmp_path / "shard.safetensors"
    path.write_bytes(shard_bytes(codec, {f"u{i}": [ShardRow(packed[i]), ShardRow(packed[0])] for i in range(3)}))
    shard = Shard(path, codec, num_variants=2)
    for index in range(3):
        for one, other in zip(shard.read(f"u{index}", 0)[:2], codec.unpack(packed[index])[:2], strict=True):
            assert torch.equal(one, other)
        assert shard.read(f"u{index}", 1).tokens.shape[0] == 0


def test_a_damaged_block_is_reported_with_file_and_utterances(tmp_path):
    codec = Codec(29, 0, 8, 0.005)
    kept = keep_nucleus((torch.randn(50, 29, generator=torch.Generator().manual_seed(0)) * 4).softmax(-1), 0.01, 8)
    content = shard_bytes(codec, {"u0": [ShardRow(codec.pack(kept.tokens.numpy(), kept.probs.numpy()))]})
    tensors = load(content)
    path = tmp_path / "shard.safetensors"
    swapped = tensors["column_bytes"][:, [0, 2, 1, 3, 4, 5, 6]]
    for changed, message in (
        ({"data": tensors["data"][::-1]}, r"block 0 of 'frames' \(utterances 'u0' to 'u0'\) is damaged"),
        ({"column_bytes": swapped}, r"block 0 of 'frames' .* is damaged"),
        (
            {"column_bytes": tensors["column_bytes"] + 1},
            r"has 1 rows in \d+ bytes; expected 1 utterances × 1",
        ),
        ({"block_rows": tensors["block_rows"] + 1}, r"has 2 rows in \d+ bytes; expected 1 utterances"),
    ):
        path.write_bytes(save({name: np.ascontiguousarray(array) for name, array in (tensors | changed).items()}))
        with pytest.raises(TargetsError, match=message):
            Shard(path, codec, num_variants=1).read("u0", 0)


def test_peaky_posteriors_of_29_characters_take_at_most_two_bytes_a_frame(tmp_path):
    """Entries as measured on a real teacher at ε = 0.01: 1.6 a frame, two fifths of the frames certain blanks."""
    codec = Codec(29, 0, 8, certain_blank=0.005)
    generator = torch.Generator().manual_seed(0)
    utterances, frames, entries = {}, 0, 0
    for index in range(300):
        logits = torch.randn(70, 29, generator=generator) * 2.3
        logits[range(70), torch.randint(29, (70,), generator=generator)] += 11.0
        logits[(torch.arange(70) // 3) % 5 < 2, 0] += 25.0
        kept = keep_nucleus(logits.softmax(-1), 0.01, 8)
        utterances[f"speaker-{index // 10:04d}-{index:06d}"] = [
            ShardRow(codec.pack(kept.tokens.numpy(), kept.probs.numpy()))
        ]
        frames, entries = frames + 70, entries + int((kept.probs > 0).sum())
    assert 1.6 < entries / frames < 1.8
    assert len(shard_bytes(codec, utterances)) / frames <= 2.0  # tails and second tokens here are pure noise


@pytest.mark.parametrize("change", ["bit", "truncated", "missing", "empty"])
def test_a_damaged_shard_is_named(folder, change):
    name = json.loads((folder / "store.json").read_text())["shards"][1]["file"]
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes({"bit": bytes(content), "truncated": bytes(content[:-3]), "empty": b""}[change])
    if change == "bit":  # of the right size: found at first use, or by verify
        store = Store.open(folder)
        first_of = [shard.first_id for shard in store.info.shards]
        store.read(first_of[0])
        with pytest.raises(TargetsError, match=f"damaged shards: {name}"):
            store.read(first_of[1])
        (damage,) = verify(folder).damage
        assert name in damage
    else:
        with pytest.raises(TargetsError, match=name):
            Store.open(folder)


def test_an_undamaged_store_verifies(folder):
    assert verify(folder).ok


def test_another_vocabulary_teacher_frame_shift_or_version_is_refused(folder, teacher):
    other = Vocabulary.characters(["abcdefg"])
    with pytest.raises(TargetsError, match=r"10 symbols, blank 0.*expected the student's 9 symbols"):
        Store.open(folder, vocabulary=other)
    with pytest.raises(TargetsError, match=r"weights aaaaaaaaaaaa….*expected weights bbbbbbbbbbbb…"):
        Store.open(folder, teacher.vocabulary, teacher_sha256="b" * 64)
    with pytest.raises(TargetsError, match=r"targets of 40 ms a frame; expected the student's 20 ms"):
        Store.open(folder, frame_shift_ms=20.0)
    with pytest.raises(TargetsError, match=r"first frame has its centre at 20 ms; expected the student's 35 ms"):
        Store.open(folder, frame_shift_ms=40.0, frame_offset_ms=35.0)
    for version in (2, 4):
        edit_index(folder, version=version)
        with pytest.raises(
            TargetsError, match=rf"format version {version}; expected version 3.*asr-kd extract … --force"
        ):
            Store.open(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "holds no object"),
        (json_text({"format": "asr-kd soft targets", "version": 3}), "description is damaged"),
        (json_text({"format": "something else", "version": 1}), "does not describe"),
    ],
)
def test_a_damaged_index_is_refused(folder, content, message):
    (folder / "store.json").write_text(content)
    with pytest.raises(TargetsError, match=message):
        Store.open(folder)


def test_a_shard_path_out_of_the_folder_is_refused(folder):
    index = json.loads((folder / "store.json").read_text())
    index["shards"][0]["file"] = "../other.safetensors"
    (folder / "store.json").write_text(json_text(index))
    with pytest.raises(TargetsError, match="description is damaged"):
        Store.open(folder)


def test_an_unfinished_store_opens_only_on_request(folder):
    edit_index(folder, planned_shards=99)
    with pytest.raises(TargetsError, match=r"unfinished: \d of 99 shards"):
        Store.open(folder)
    assert Store.open(folder, partial=True).info.frames > 0


def test_no_store_at_all(tmp_path):
    with pytest.raises(TargetsError, match="no soft targets here"):
        Store.open(tmp_path / "nothing")


def test_what_is_not_stored_is_named(folder):
    store = Store.open(folder)
    known = next(store.ids())
    for unknown in ("a-before-all", "zz-after-all", known + "x"):
        assert unknown not in store
        with pytest.raises(TargetsError, match=f"no targets for utterance '{unknown}'"):
            store.read(unknown)
    with pytest.raises(TargetsError, match=r"no targets for variant 'speed-1.1'; expected one of speed-1.0, speed-0.9"):
        store.read(known, "speed-1.1")


def test_another_number_of_frames_is_refused_never_cropped(folder):
    store = Store.open(folder)
    known = next(store.ids())
    frames = store.read(known).tokens.shape[0]
    with pytest.raises(TargetsError, match=f"has {frames} frames of targets, its student {frames + 1}"):
        store.read(known, num_frames=frames + 1)


def test_the_index_states_where_the_targets_come_from(folder, teacher: FakeTeacher):
    info = Store.open(folder).info
    assert (info.teacher.sha256, info.vocabulary.sha256) == (teacher.sha256, teacher.vocabulary.sha256)
    assert info.features == teacher.features
    assert (info.epsilon, info.max_entries, info.levels) == (0.005, 8, TargetSettings().levels)
    assert (info.frame_shift_ms, info.frame_offset_ms) == (40.0, 20.0)
    assert info.bytes_per_frame == sum(p.stat().st_size for p in folder.glob("*.safetensors")) / info.frames


def test_the_committed_store_is_whole_and_takes_at_most_a_byte_a_frame():
    folder = Path(__file__).parents[2] / "recipes/AN4/weights/targets"
    store = Store.open(folder)
    assert verify(folder).ok
    assert store.info.bytes_per_frame <= 1.0
    frames = [len(store.read(name, variant).tokens) for name in store.ids() for variant in store.info.variants]
    assert sum(frames) == store.info.frames
