"""Endpoints of our streams against those of the real client, on the same bundle and packets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr_kd.audio import SAMPLE_RATE
from asr_kd.decoding.settings import EndpointSettings
from asr_kd.runtime.recognizer import open_recognizer
from tests.helpers.tiny_models import noise_speech

PACKET, FRAME = 1_600, 160

CLIENT = """
import json, sys
import numpy as np, sherpa_onnx
request = json.load(sys.stdin)
recognizer = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(
    tokens=request["tokens"], model=request["model"], num_threads=1, enable_endpoint_detection=True, **request["rules"]
)
waveform, stream, said = np.load(request["waveform"]), recognizer.create_stream(), []
for start in range(0, len(waveform), request["packet"]):
    stream.accept_waveform(16000, waveform[start : start + request["packet"]])
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    ended = recognizer.is_endpoint(stream)
    said.append([ended, recognizer.get_result(stream)])
    if ended:
        recognizer.reset(stream)
print(json.dumps(said))
"""


def clients(folder: Path, waveform: torch.Tensor, rules: EndpointSettings, scratch: Path) -> list[tuple[bool, str]]:
    """After each packet: whether the client says that the utterance has ended, and its text."""
    np.save(scratch / "waveform.npy", waveform.numpy())
    request = {
        "model": str(folder / "model.onnx"),
        "tokens": str(folder / "tokens.txt"),
        "waveform": str(scratch / "waveform.npy"),
        "packet": PACKET,
        "rules": rules.model_dump(),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", CLIENT], input=json.dumps(request), capture_output=True, text=True, check=True
    )
    return [(ended, text) for ended, text in json.loads(done.stdout.splitlines()[-1])]


def ours(folder: Path, waveform: torch.Tensor, rules: EndpointSettings) -> list[tuple[bool, str]]:
    """The same of our stream, which hears 10 ms less: the client takes up a chunk one frame after it is whole."""
    stream = open_recognizer(folder).stream(rules)
    said = []
    for packet in torch.nn.functional.pad(waveform, (FRAME, 0)).split(PACKET):
        if not said:
            packet = packet[FRAME:]
        text = stream.accept(packet)
        ended = stream.ended_by_rule is not None
        said.append((ended, text))
        if ended:
            stream.next_utterance()
    return said


def check(folder: Path, waveform: torch.Tensor, rules: EndpointSettings, scratch: Path) -> list[tuple[bool, str]]:
    found = ours(folder, waveform[: len(waveform) // PACKET * PACKET - FRAME], rules)
    theirs = clients(folder, waveform[: len(waveform) // PACKET * PACKET], rules, scratch)
    assert [ended for ended, _ in found] == [ended for ended, _ in theirs]
    assert [text for _, text in found] == [text.strip() for _, text in theirs]
    return [item for item in found if item[0]]


def test_our_utterances_end_where_the_clients_do(bundle, tmp_path):
    pytest.importorskip("sherpa_onnx")
    parts = [torch.zeros(24_000), noise_speech(2.0, 1), torch.zeros(32_000), noise_speech(4.0, 2), torch.zeros(16_000)]
    rules = EndpointSettings(
        rule1_min_trailing_silence=0.6, rule2_min_trailing_silence=0.3, rule3_min_utterance_length=2.5
    )
    assert len(check(bundle, torch.cat(parts), rules, tmp_path)) >= 3


@pytest.mark.parametrize("seconds", [0.8, 1.6, 1.92])
def test_endpoints_at_whole_chunks_are_the_clients(bundle, tmp_path, seconds):
    """Lengths of whole chunks: in float64 the first two would end an utterance one chunk before the client."""
    pytest.importorskip("sherpa_onnx")
    rules = EndpointSettings(
        rule1_min_trailing_silence=99, rule2_min_trailing_silence=99, rule3_min_utterance_length=seconds
    )
    assert check(bundle, noise_speech(6.0, 1), rules, tmp_path)


@pytest.mark.skipif("ASR_KD_BUNDLE" not in os.environ, reason="ASR_KD_BUNDLE names no bundle of a trained model")
def test_real_utterances_end_where_the_clients_do(corpora_root, tmp_path):
    """Three of AN4's sentences with pauses between, heard by the bundle that ASR_KD_BUNDLE names."""
    paths = sorted(corpora_root.rglob("an4*/**/*.wav"))[:3]
    assert len(paths) == 3
    pause = torch.zeros(3 * SAMPLE_RATE)
    parts = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in paths]
    waveform = torch.cat([pause, *(piece for part in parts for piece in (part, pause))])
    ends = check(Path(os.environ["ASR_KD_BUNDLE"]), waveform, EndpointSettings(), tmp_path)
    assert sum(bool(text) for _, text in ends) == 3
