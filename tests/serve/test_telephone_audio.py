"""Telephone audio: 8 kHz and G.711 give what the file of the same bytes gives."""

import asyncio

import numpy as np
import pytest
import soundfile
import torch

from asr_kd.audio import SAMPLE_RATE, read_blocks, resample
from asr_kd.audio.waveform_reader import StreamResampler
from asr_kd.serve.protocol import samples_of
from tests.helpers.serve_client import RULES, START, finals, speak
from tests.helpers.tiny_models import noise_speech

SUBTYPES = {"mulaw": "ULAW", "alaw": "ALAW", "s16le": "PCM_16"}


def recorded(tmp_path, encoding, rate=8_000):
    """A call as a file and as its bytes."""
    speech = resample(noise_speech(3.0, seed=3).numpy(), SAMPLE_RATE, rate)
    path = tmp_path / f"{encoding}.wav"
    soundfile.write(path, speech, rate, subtype=SUBTYPES[encoding])
    raw = tmp_path / f"{encoding}.raw"
    soundfile.write(raw, speech, rate, subtype=SUBTYPES[encoding], format="RAW")
    return path, raw.read_bytes()


@pytest.mark.parametrize("encoding", SUBTYPES)
def test_every_byte_is_decoded_as_libsndfile_does(tmp_path, encoding):
    payload = bytes(range(256)) * 2
    path = tmp_path / "all.raw"
    path.write_bytes(payload)
    expected, _ = soundfile.read(
        path, dtype="float32", format="RAW", subtype=SUBTYPES[encoding], channels=1, samplerate=8_000
    )
    assert np.array_equal(samples_of(payload, encoding), expected)


@pytest.mark.parametrize("packet_bytes", [160, 1_600, 65_536])
@pytest.mark.parametrize("encoding", ["mulaw", "alaw", "s16le"])
def test_a_stream_of_8_khz_is_the_file_of_8_khz(tmp_path, encoding, packet_bytes):
    path, payload = recorded(tmp_path, encoding)
    resampler = StreamResampler(8_000, SAMPLE_RATE)
    packets = [payload[at : at + packet_bytes] for at in range(0, len(payload), packet_bytes)]
    blocks = [resampler.push(samples_of(packet, encoding)) for packet in packets]
    found = np.concatenate([*blocks, resampler.push(np.zeros(0, dtype=np.float32), last=True)])
    expected = torch.cat(list(read_blocks(path))).numpy()
    assert len(found) == len(expected)
    assert np.abs(found - expected).max() < 1e-3


def test_a_call_is_transcribed_as_its_file(serving, recognizer, tmp_path):
    path, payload = recorded(tmp_path, "mulaw")
    stream = recognizer.stream(RULES, cut_at_endpoints=True)
    for block in read_blocks(path):
        stream.feed(block)
    last = stream.final()
    expected = [*(utterance.text for utterance in stream.take_utterances()), *([last] if last else [])]

    async def run():
        async with serving() as server:
            start = {**START, "sample_rate": 8_000, "encoding": "mulaw"}
            said = await speak(server, payload, 160, start)
            return (
                said,
                await speak(server, b"", start=start),
                await speak(server, b"", start={**start, "sample_rate": 11_025}),
            )

    (messages, code), (nothing, _), (refused, refused_code) = asyncio.run(run())
    assert code == 1000
    assert finals(messages) == expected
    assert messages[-1]["seconds"] == 3.0
    assert [message["type"] for message in nothing] == ["ready", "done"]
    assert (refused[-1]["code"], refused_code) == ("sample-rate", 1003)
