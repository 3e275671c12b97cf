"""The bundle that comes with the project opens and transcribes real speech about as well as it states."""

from pathlib import Path

import pytest
import soundfile
import torch

from asr_kd.corpora.an4 import find_an4, read_an4, split_speakers
from asr_kd.runtime.bundle import INT8, MODEL, read_bundle
from asr_kd.runtime.recognizer import open_recognizer
from asr_kd.scoring.wer import score

pytest.importorskip("onnxruntime")
BUNDLE = Path(__file__).parents[2] / "recipes/AN4/weights/student-kd"
UTTERANCES = 30


def test_every_file_of_the_bundle_is_intact():
    info = read_bundle(BUNDLE).info
    assert set(info.files.graphs) == {MODEL, INT8}
    assert info.trace.wer.keys() == {"dev", "devtest"}
    assert sum(file.stat().st_size for file in BUNDLE.rglob("*")) < 10_000_000


@pytest.mark.parametrize("form", [MODEL, INT8])
def test_speakers_that_it_was_not_trained_on_are_transcribed(corpora_root, form):
    held_out = split_speakers(read_an4(find_an4(corpora_root), "train"), fold=0, seed=1)["devtest"][:UTTERANCES]
    waveforms = [torch.from_numpy(soundfile.read(one.audio, dtype="float32")[0]) for one in held_out]
    hypotheses = open_recognizer(f"{BUNDLE}/{form}").transcribe(waveforms)
    references = {one.id: one.text for one in held_out}
    assert score(references, dict(zip(references, hypotheses, strict=True)), "librispeech").words.rate < 0.25
