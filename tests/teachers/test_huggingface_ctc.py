"""Models of transformers as teachers: the library's own posteriors whoever is in the batch, nothing unsafe."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from asr_kd.errors import CheckpointError, MissingExtraError, RecipeError
from asr_kd.files import sha256_of_file
from asr_kd.teachers import TeacherSource, open_teacher_source
from asr_kd.teachers.frame_geometry import FAMILIES
from asr_kd.teachers.huggingface_ctc import open_huggingface
from tests.helpers.tiny_teachers import LABELS, MODELS, save_labels, save_transformers, waveforms

transformers = pytest.importorskip("transformers")

LENS = (8000, 16000, 12345, 16000, 399)
GRIDS = {
    "wav2vec2-adapter": (40.0, 12.5),
    "wav2vec2-bert": (20.0, 17.5),
    "wav2vec2-bert-adapter": (40.0, 17.5),
    "parakeet": (80.0, 0.0),
    "lasr": (40.0, 72.5),
}
"""Frame shift and centre of frame 0 in milliseconds, where they are not wav2vec2's."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder, model and extractor of a name, saved once."""
    made = {}

    def save(name: str):
        if name not in made:
            folder = tmp_path_factory.mktemp(name) / name
            made[name] = (folder, *save_transformers(name, folder))
        return made[name]

    return save


@pytest.fixture
def copied(saved, tmp_path) -> Path:
    """A folder of its own, to be damaged."""
    return Path(shutil.copytree(saved("wav2vec2-base")[0], tmp_path / "copied"))


# -- what it says ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_posteriors_are_the_librarys_own_whoever_is_in_the_batch(saved, name):
    folder, model, extractor = saved(name)
    teacher = open_teacher_source(TeacherSource(source=f"hf:{folder}"))
    audio, lens = waveforms(*LENS)
    batch = teacher.log_probs(audio, lens)
    assert batch.log_probs.dtype == torch.float32
    for row, num_samples in enumerate(LENS):
        frames = int(batch.lens[row])
        if num_samples < 400:
            assert frames == 0 or name == "parakeet"  # whose spectrogram is padded
            continue
        inputs = extractor(audio[row, :num_samples].numpy(), sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            expected = model(**inputs).logits[0].log_softmax(-1)
        # Half a frame at the end is masked by the library itself where frames are stacked in pairs.
        assert frames == len(expected) - (name == "wav2vec2-bert" and num_samples == 12345)
        torch.testing.assert_close(batch.log_probs[row, :frames], expected[:frames], atol=2e-5, rtol=0)
    assert batch.log_probs[0].exp().max() > 0.2, "the model says something"


@pytest.mark.parametrize("name", ["wav2vec2-base", "data2vec-audio", "wav2vec2-conformer"])
def test_why_some_are_never_padded(saved, name):
    """With mask or without, padding changes what these say of the same audio."""
    _, model, extractor = saved(name)
    audio, _ = waveforms(8000, 16000)
    inputs = extractor(
        [audio[0, :8000].numpy(), audio[1].numpy()],
        sampling_rate=16_000,
        padding=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        padded = model(**inputs).logits[0, :24]
        alone = model(**extractor(audio[0, :8000].numpy(), sampling_rate=16_000, return_tensors="pt")).logits[0]
    assert (padded - alone).abs().max() > 0.05


def test_every_family_is_among_the_tested():
    kinds = {getattr(transformers, kind)(**arguments).model_type for kind, arguments in MODELS.values()}
    assert kinds == set(FAMILIES)


@pytest.mark.parametrize("name", MODELS)
def test_frames_lie_where_the_front_end_puts_them(saved, name):
    teacher = open_huggingface(str(saved(name)[0]))
    assert (teacher.frame_shift_ms, teacher.frame_offset_ms) == GRIDS.get(name, (20.0, 12.5))


@pytest.mark.parametrize("name", ["wav2vec2-large", "parakeet"])
def test_audio_one_frame_later_gives_frames_one_later(tmp_path, name):
    """In the layers below attention, which alone place a frame: the rest is one long sum over all of them."""
    folder = tmp_path / name
    model, extractor = save_transformers(name, folder, normalise=False)
    teacher = open_huggingface(str(folder))
    stride = round(teacher.frame_shift_ms * 16)
    audio, _ = waveforms(24_000)
    if name == "parakeet":
        shorten, key = model.encoder.subsampling, "input_features"
        heard = [torch.as_tensor(extractor._torch_extract_fbank_features(part)) for part in (audio, audio[:, stride:])]
    else:
        shorten, key = model.wav2vec2.feature_extractor, "input_values"
        heard = [audio, audio[:, stride:]]
    assert key == model.main_input_name
    with torch.no_grad():
        first, second = (shorten(part) for part in heard)
    if name != "parakeet":
        first, second = first.transpose(1, 2), second.transpose(1, 2)
    assert second.shape[1] == first.shape[1] - 1
    torch.testing.assert_close(second[0, 3:-3], first[0, 4:-3], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_normalised_and_another_teacher(saved, precision):
    folder = saved("wav2vec2-large")[0]
    whole, half = (open_huggingface(str(folder), precision=kind) for kind in ("fp32", precision))
    audio, lens = waveforms(16000, 9000)
    said, said_half = whole.log_probs(audio, lens), half.log_probs(audio, lens)
    assert said_half.log_probs.dtype == torch.float32
    assert not torch.equal(said.log_probs, said_half.log_probs)
    torch.testing.assert_close(said_half.log_probs, said.log_probs, atol=0.3, rtol=0)
    torch.testing.assert_close(said_half.log_probs[0].exp().sum(-1), torch.ones(49), atol=1e-5, rtol=0)
    assert whole.sha256 != half.sha256


# -- labels ----------------------------------------------------------------------------------------------


def test_labels_keep_their_ids_under_our_names(saved):
    teacher = open_huggingface(str(saved("wav2vec2-base")[0]))
    assert teacher.vocabulary.symbols == ("<blk>", "<s>", "</s>", "<unk>", "▁", "E", "T", "A", "O", "N", "I", "'")
    assert open_huggingface(str(saved("parakeet")[0])).vocabulary.blank_id == len(LABELS) - 1


def test_outputs_without_a_label_have_a_name_of_their_own(copied):
    save_labels(copied, LABELS[:10])
    teacher = open_huggingface(str(copied))
    assert teacher.vocabulary.symbols[10:] == ("<unused-10>", "<unused-11>")


def test_two_blanks_are_refused_by_name(copied):
    save_labels(copied, ("E", "<s>", "</s>", "<unk>", "|", "<pad>", *LABELS[6:]))
    with pytest.raises(CheckpointError, match=r"blank \(pad\) is 0 in config.json and 5 in the tokenizer"):
        open_huggingface(str(copied))


# -- identity --------------------------------------------------------------------------------------------


def test_identity_follows_weights_and_what_is_done_to_the_audio(saved, copied):
    source = str(saved("wav2vec2-base")[0])
    assert open_huggingface(source).sha256 == open_huggingface(str(copied)).sha256
    extractor = copied / "preprocessor_config.json"
    extractor.write_text(extractor.read_text().replace('"do_normalize": true', '"do_normalize": false'))
    other = open_huggingface(str(copied))
    assert other.features["normalised"] is False
    assert other.sha256 != open_huggingface(source).sha256


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json", "vocab.json", "model.safetensors"])
def test_a_missing_file_is_named(copied, missing):
    for file in copied.glob("tokenizer*.json" if missing == "vocab.json" else "nothing"):
        file.unlink()
    (copied / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        open_huggingface(str(copied))


def test_a_pickle_is_refused_with_the_way_out(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match=r"has no model\.safetensors, only pytorch_model\.bin.*can run code.*save_pretrained"
    ):
        open_huggingface(str(copied))


def test_damaged_weights_are_refused(copied):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot open it"):
        open_huggingface(str(copied))


def test_a_model_without_a_trained_head_is_refused(copied):
    torch.manual_seed(0)
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**MODELS["wav2vec2-base"][1])).save_pretrained(copied)
    with pytest.raises(CheckpointError, match="without a CTC head"):
        open_huggingface(str(copied))


def test_code_in_a_repository_never_runs(copied, tmp_path):
    trap, witness = copied / "modeling_trap.py", tmp_path / "ran"
    trap.write_text(f"from pathlib import Path\nPath({str(witness)!r}).touch()\n")
    config = json.loads((copied / "config.json").read_text())
    config |= {
        "model_type": "trap",
        "auto_map": {"AutoConfig": "modeling_trap.A", "AutoModelForCTC": "modeling_trap.B"},
    }
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="cannot open it"):
        open_huggingface(str(copied))
    assert not witness.exists()


def test_models_that_are_not_ctc_or_of_another_rate_are_refused(copied, tmp_path):
    whisper = Path(shutil.copytree(copied, tmp_path / "whisper"))
    transformers.WhisperConfig().save_pretrained(whisper)
    with pytest.raises(RecipeError, match=r"is a 'whisper' model.*wav2vec2"):
        open_huggingface(str(whisper))
    extractor = copied / "preprocessor_config.json"
    extractor.write_text(extractor.read_text().replace("16000", "8000"))
    with pytest.raises(RecipeError, match="8000 Hz"):
        open_huggingface(str(copied))


def test_without_transformers_the_extra_is_named(monkeypatch, saved):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"asr-kd\[hf\]"):
        open_huggingface("somebody/something")


# -- the hub ---------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Path:
    """A hub cache of our own, and no network."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_without_network_the_message_has_the_file_and_the_command(hub):
    with pytest.raises(CheckpointError) as caught:
        open_teacher_source(TeacherSource(source="hf:somebody/something@v1"))
    message = str(caught.value)
    assert "model.safetensors and config.json of somebody/something, v1 are not here" in message
    assert "hf download somebody/something --revision v1 --include" in message
    assert "--local-dir something" in message
    with pytest.raises(CheckpointError, match="does not exist"):
        open_huggingface("./no/such/folder")


def test_a_cached_repository_opens_without_network_and_says_its_commit(hub, saved, caplog):
    folder = saved("wav2vec2-base")[0]
    repository = hub / "models--somebody--something"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    pinned = open_teacher_source(TeacherSource(source=f"hf:somebody/something@{COMMIT}"))
    assert not caplog.records
    assert pinned.name == f"somebody/something@{COMMIT[:12]}"
    assert pinned.sha256 == open_huggingface(str(folder)).sha256
    with caplog.at_level(logging.WARNING):
        open_teacher_source(TeacherSource(source="hf:somebody/something"))
    assert f"write hf:somebody/something@{COMMIT} to keep it there" in caplog.text


def test_weights_in_several_files(tmp_path):
    model, _ = save_transformers("wav2vec2-base", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert all(len(sha256_of_file(shard)) == 64 for shard in shards)
    identity = open_huggingface(str(tmp_path)).sha256
    shards[1].rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match=shards[1].name):
        open_huggingface(str(tmp_path))
    (tmp_path / "away").rename(shards[1])
    assert open_huggingface(str(tmp_path)).sha256 == identity


@pytest.mark.parametrize("text", ["[]", "null", '{"weight_map": {"a": 1, "b": "x"}}', '{"weight_map": {"a": [1]}}'])
def test_a_malformed_list_of_weights_is_one_message(copied, text):
    (copied / "model.safetensors").unlink()
    (copied / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index.json \(readable\) is not here.*Copy the whole folder again"):
        open_huggingface(str(copied))


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer_config.json", "vocab.json"])
def test_files_of_another_form_are_one_message(copied, name):
    (copied / name).write_text("[]")
    with pytest.raises(CheckpointError, match=r"cannot open it .*Copy the whole folder again"):
        open_huggingface(str(copied))


@pytest.mark.parametrize(("key", "value"), [("architectures", 5), ("conv_kernel", 5), ("hidden_size", 0)])
def test_a_configuration_with_values_of_another_type_is_one_message(copied, key, value):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, key: value}))
    if key == "architectures":
        assert open_huggingface(str(copied)).name == "copied"  # only a hint of the head: the weights decide
        return
    with pytest.raises(CheckpointError, match="cannot open it"):
        open_huggingface(str(copied))
