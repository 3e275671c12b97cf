"""speechbrain's CTC models as teachers: only on the user's word, and then what speechbrain itself says."""

from pathlib import Path

import pytest
import sentencepiece
import torch

from asr_kd.errors import CheckpointError, RecipeError
from asr_kd.teachers import TeacherSource, open_teacher_source
from asr_kd.teachers.speechbrain_ctc import SpeechbrainTeacher
from tests.helpers.tiny_teachers import randomised, save_transformers, waveforms

CHARACTERS = ("a", "b", "c", " ", "'")

FBANK = """
compute_features: !new:speechbrain.lobes.features.Fbank
    sample_rate: !ref <sample_rate>
    n_fft: 400
    n_mels: 20
front: !new:speechbrain.lobes.models.convolution.ConvolutionFrontEnd
    input_shape: [null, null, 20]
    num_blocks: 2
    num_layers_per_block: 1
    out_channels: [4, 4]
    kernel_sizes: [3, 3]
    strides: [2, 2]
    residuals: [False, False]
linear: !new:speechbrain.nnet.linear.Linear
    input_size: 20
    n_neurons: !ref <outputs>
    combine_dims: True
encoder: !new:speechbrain.nnet.containers.LengthsCapableSequential
    compute_features: !ref <compute_features>
    front: !ref <front>
    linear: !ref <linear>
    last: !ref <last>
"""
WAV2VEC2 = """
front: !new:speechbrain.integrations.huggingface.wav2vec2.Wav2Vec2
    source: FOLDER
    save_path: CACHE
    output_norm: True
    freeze: True
linear: !new:speechbrain.nnet.linear.Linear
    input_size: 32
    n_neurons: !ref <outputs>
encoder: !new:speechbrain.nnet.containers.LengthsCapableSequential
    front: !ref <front>
    linear: !ref <linear>
    last: !ref <last>
"""
REST = """
sample_rate: RATE
blank_index: 0
outputs: 6
last: !new:LAST
    apply_log: True
modules:
    encoder: !ref <encoder>
tokenizer: !new:TOKENIZER
decoding_function: !name:speechbrain.decoders.ctc_greedy_decode
    blank_id: !ref <blank_index>
asr: !new:torch.nn.ModuleList
    - [!ref <front>, !ref <linear>]
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        asr: !ref <asr>
        tokenizer: !ref <tokenizer>
"""


def save(folder: Path, front: str = FBANK, rate: int = 16_000, pieces: bool = False) -> Path:
    """A model folder as speechbrain's users publish it."""
    from hyperpyyaml import load_hyperpyyaml
    from speechbrain.dataio.encoder import CTCTextEncoder

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = "sentencepiece.SentencePieceProcessor" if pieces else "speechbrain.dataio.encoder.CTCTextEncoder"
    text = (front + REST).replace("RATE", str(rate)).replace("TOKENIZER", tokenizer)
    text = text.replace("LAST", "speechbrain.nnet.activations.Softmax")
    (folder / "hyperparams.yaml").write_text(text)
    torch.manual_seed(0)
    torch.save(randomised(load_hyperpyyaml(text)["asr"]).state_dict(), folder / "asr.ckpt")
    if pieces:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["ab a b", "ba ab"]),
            model_prefix=str(folder / "tokenizer"),
            vocab_size=6,
            model_type="bpe",
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
        (folder / "tokenizer.model").rename(folder / "tokenizer.ckpt")
    else:
        encoder = CTCTextEncoder()
        encoder.insert_blank(index=0)
        encoder.update_from_iterable(CHARACTERS, sequence_input=False)
        encoder.save(str(folder / "tokenizer.ckpt"))
    return folder


def opened(folder: Path, **more) -> SpeechbrainTeacher:
    return SpeechbrainTeacher(str(folder), "mine", allow_code=True, **more)


def test_without_the_users_word_nothing_is_even_read(tmp_path):
    witness = tmp_path / "ran"
    folder = tmp_path / "trap"
    folder.mkdir()
    (folder / "hyperparams.yaml").write_text(f"trap: !apply:os.mkdir ['{witness}']\n")
    with pytest.raises(RecipeError, match=r"runs whatever its author wrote.*allow_code: true"):
        SpeechbrainTeacher(str(folder), "mine", allow_code=False)
    with pytest.raises(ValueError, match="allow_code: true"):
        TeacherSource(source=f"speechbrain:{folder}@mine")
    assert not witness.exists()
    with pytest.raises(CheckpointError):
        opened(folder)
    assert witness.exists(), "the reason for asking"


def test_posteriors_are_speechbrains_own_alone_or_in_a_batch(tmp_path):
    from speechbrain.inference.ASR import EncoderASR
    from speechbrain.utils.fetching import LocalStrategy

    folder = save(tmp_path / "model")
    teacher = open_teacher_source(TeacherSource(source=f"speechbrain:{folder}@mine", allow_code=True))
    own = EncoderASR.from_hparams(source=str(folder), local_strategy=LocalStrategy.NO_LINK)
    lengths = (8000, 16000, 12345, 300)
    audio, lens = waveforms(*lengths)
    batch = teacher.log_probs(audio, lens)
    for row, num_samples in enumerate(lengths[:-1]):
        expected = own.encode_batch(audio[row : row + 1, :num_samples], torch.ones(1))[0]
        assert int(batch.lens[row]) == len(expected)
        torch.testing.assert_close(batch.log_probs[row, : len(expected)], expected, atol=1e-5, rtol=0)
    assert int(batch.lens[-1]) == 0
    assert batch.log_probs[0].exp().max() > 0.3


def test_says_who_it_is(tmp_path):
    teacher = opened(save(tmp_path / "model"))
    assert teacher.name == "model@mine"
    assert teacher.vocabulary.symbols == ("<blk>", "a", "b", "c", "▁", "'")
    assert (teacher.frame_shift_ms, teacher.frame_offset_ms) == (40.0, 0.0)


def test_a_click_is_heard_where_the_frames_are_said_to_lie(tmp_path):
    teacher = opened(save(tmp_path / "model"))
    # Noise, not silence: speechbrain's Fbank cuts everything 80 dB below an utterance's loudest frame.
    quiet, lens = waveforms(48_000)
    for frame in (20, 41, 60):
        click = quiet.clone()
        click[0, frame * 640] = 5.0
        heard, silent = (teacher.log_probs(audio, lens).log_probs[0] for audio in (click, quiet))
        moved = (heard - silent).abs().sum(-1)
        centre = float((moved * torch.arange(len(moved))).sum() / moved.sum())
        assert abs(centre - frame) < 0.5


def test_wav2vec2_inside(tmp_path):
    pytest.importorskip("transformers")
    save_transformers("wav2vec2-large", tmp_path / "base")
    front = WAV2VEC2.replace("FOLDER", str(tmp_path / "base")).replace("CACHE", str(tmp_path / "cache"))
    teacher = opened(save(tmp_path / "model", front))
    assert (teacher.frame_shift_ms, teacher.frame_offset_ms) == (20.0, 12.5)
    assert teacher.log_probs(*waveforms(16_000, 9000)).lens.tolist() == [49, 27]


def test_pieces_keep_their_ids(tmp_path):
    teacher = opened(save(tmp_path / "model", pieces=True))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "model" / "tokenizer.ckpt"))
    expected = [pieces.id_to_piece(index) for index in range(6)]
    assert teacher.vocabulary.symbols == ("<blk>", *expected[1:])
    assert any(piece.startswith("▁") and len(piece) > 1 for piece in expected)


def test_a_folder_may_lie_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert opened(save(tmp_path / "model")).sha256 == opened(Path("~/model")).sha256


def test_identity_follows_the_weights(tmp_path):
    folder = save(tmp_path / "model")
    before = opened(folder).sha256
    assert opened(folder).sha256 == before
    assert opened(folder, precision="bf16").sha256 != before
    weights = torch.load(folder / "asr.ckpt", weights_only=True)
    next(iter(weights.values())).add_(0.01)
    torch.save(weights, folder / "asr.ckpt")
    assert opened(folder).sha256 != before


def test_a_missing_file_and_the_command_are_named(tmp_path):
    folder = save(tmp_path / "model")
    (folder / "asr.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"asr\.ckpt.*hf download OWNER/NAME --revision mine"):
        opened(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("sample_rate: 16000", "sample_rate: 8000"), "was trained on 8000 Hz"),
        (("apply_log: True", "apply_log: False"), "ends in probabilities"),
        (("blank_index: 0", "blank_index: 9"), "blank is 9"),
        (("n_mels: 20\n", "n_mels: 20\n    hop_length: 7\n"), None),
    ],
)
def test_what_cannot_teach_is_refused(tmp_path, change, message):
    folder = save(tmp_path / "model")
    text = (folder / "hyperparams.yaml").read_text()
    assert change[0] in text
    (folder / "hyperparams.yaml").write_text(text.replace(*change))
    if message is None:
        assert opened(folder).frame_shift_ms != 40.0, "the shift is measured, not assumed"
        return
    with pytest.raises(Exception, match=message) as caught:
        opened(folder)
    assert type(caught.value).__module__ == "asr_kd.errors"
