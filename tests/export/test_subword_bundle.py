"""A bundle of subwords: the real client prints words, and bpe.model travels with its checksum."""

import shutil

import pytest

from asr_kd.errors import BundleError
from asr_kd.export.client_parity import client_input
from asr_kd.export.export_bundle import export_bundle
from asr_kd.export.parity import stream_alignments
from asr_kd.export.sherpa_client import client_is_installed, run_client
from asr_kd.runtime.bundle import MODEL, TOKENS, read_bundle
from asr_kd.runtime.recognizer import open_recognizer
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.tiny_models import noise_speech, save_tiny_model

WORDS = Vocabulary.subwords(["THE CAT SAT ON THE MAT", "A DOG'S LIFE", "THE DOG AND THE CAT", "HAT BAT"], 36)


@pytest.fixture(scope="module")
def subword_bundle(tmp_path_factory, waveforms):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("subwords")
    model = save_tiny_model(folder / "model", vocabulary=WORDS, seed=8)
    export_bundle(model, folder / "bundle", waveforms)
    return folder / "bundle"


@pytest.mark.skipif(not client_is_installed(), reason="sherpa-onnx is not installed")
def test_the_real_client_gives_our_words(subword_bundle):
    opened, recognizer = read_bundle(subword_bundle), open_recognizer(subword_bundle)
    audio = [noise_speech(seconds, seed) for seed, seconds in [(11, 3.1), (12, 0.7), (13, 1.9)]]
    inputs = [client_input(opened, item).numpy() for item in audio]
    results = run_client(subword_bundle / MODEL, subword_bundle / TOKENS, inputs, 1_111)
    ours = stream_alignments(recognizer, audio)
    texts = [WORDS.decode(alignment.tokens) for alignment in ours]
    assert sum(" " in text for text in texts) >= 2
    assert any(len(WORDS.symbols[token]) > 2 for alignment in ours for token in alignment.tokens)
    assert [" ".join(result.text.split()) for result in results] == texts
    assert open_recognizer(subword_bundle).transcribe(audio) == texts


def test_it_can_be_written_with_again(subword_bundle):
    opened = read_bundle(subword_bundle)
    assert opened.vocabulary == WORDS
    assert opened.info.files.bpe is not None
    assert opened.vocabulary.encode("THE HAT") == WORDS.encode("THE HAT")
    assert sorted(path.name for path in subword_bundle.iterdir()) == [
        ".asr-kd-files",
        "README.md",
        "bpe.model",
        "bundle.json",
        "examples",
        "model.onnx",
        "tokens.txt",
    ]


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_damaged_or_missing_model_of_subwords_is_named(subword_bundle, tmp_path, damage):
    copy = shutil.copytree(subword_bundle, tmp_path / "copy")
    path = copy / "bpe.model"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.unlink()
    if damage == "flip":
        path.write_bytes(bytes(content))
    with pytest.raises(BundleError, match=r"bpe\.model"):
        read_bundle(copy)


def test_one_that_does_not_belong_there_is_refused(bundle, subword_bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    shutil.copy(subword_bundle / "bpe.model", copy)
    with pytest.raises(BundleError, match=r"in tokens\.txt"):
        read_bundle(copy)
