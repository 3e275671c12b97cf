"""A client of the live server, for its tests."""

import asyncio
import contextlib
import json

from asr_kd.decoding.settings import EndpointSettings
from asr_kd.serve.protocol import samples_of
from tests.helpers.tiny_models import noise_speech

RULES = EndpointSettings(
    rule1_min_trailing_silence=0.4, rule2_min_trailing_silence=0.24, rule3_min_utterance_length=1.5
)
START = {"type": "start", "sample_rate": 16_000}


def stream_address(server):
    return server.address.replace("http", "ws", 1) + "stream"


def pcm(samples):
    """As 16-bit bytes."""
    return (samples.clamp(-1, 1) * 32_767).round().short().numpy().astype("<i2").tobytes()


async def receive_all(stream):
    """Messages until the server closes, and how it closed."""
    from websockets.exceptions import ConnectionClosed

    messages = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            messages.append(json.loads(await asyncio.wait_for(stream.recv(), 600)))
    return messages, stream.close_code


async def speak(server, audio, packet_bytes=3_200, start=START, **options):
    """Send audio and end; what was answered, and the close code."""
    from websockets.asyncio.client import connect

    async with connect(stream_address(server), **options) as stream:
        await stream.send(json.dumps(start))
        for at in range(0, len(audio), packet_bytes):
            await stream.send(audio[at : at + packet_bytes])
        await stream.send(json.dumps({"type": "end"}))
        return await receive_all(stream)


def finals(messages):
    return [message["text"] for message in messages if message["type"] == "final"]


def expected_texts(recognizer, audio):
    """What a stream of our own gives for 16-bit bytes."""
    stream = recognizer.stream(RULES, cut_at_endpoints=True)
    stream.accept(samples_of(audio, "s16le"))
    last = stream.final()
    return [*(utterance.text for utterance in stream.take_utterances()), *([last] if last else [])]


SPEECH = pcm(noise_speech(3.0, seed=3))
