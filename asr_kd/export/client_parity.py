"""Compare the results of the real sherpa-onnx client on a bundle with ours: tokens, times, text, and after a reset.

Shapes: S samples.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import NamedTuple

import torch
from torch import Tensor

from asr_kd.errors import BundleError, MissingExtraError
from asr_kd.export.sherpa_client import ClientFailure, ClientResult, client_is_installed, run_client
from asr_kd.features.fbank import FRAME_SHIFT_SAMPLES
from asr_kd.models.layers import FRAME_SHIFT_MS
from asr_kd.runtime.backend import padded_num_samples
from asr_kd.runtime.bundle import TOKENS, Bundle
from asr_kd.runtime.recognizer import Recognizer
from asr_kd.text.vocabulary import WORD_SEPARATOR, Vocabulary

CLIENT_PACKET_SAMPLES = 3_200


class EmittedTokens(NamedTuple):
    """Decoded tokens of one utterance and the frame in which each was first emitted."""

    tokens: list[int]
    frames: list[int]


def client_version() -> str:
    """Return the client's name and version, where it is installed."""
    if not client_is_installed():
        raise MissingExtraError("sherpa-onnx", "export")
    return f"sherpa-onnx {version('sherpa-onnx')}"


def client_agrees(bundle: Bundle, waveforms: Sequence[Tensor], alignments: Sequence[EmittedTokens]) -> list[bool]:
    """Return, per utterance, whether the client's tokens, times and text equal ours.

    Raises:
        BundleError: the client cannot run the bundle.
    """
    results = _client(bundle, [client_input(bundle, waveform) for waveform in waveforms])
    return [_same(bundle.vocabulary, *pair) for pair in zip(results, alignments, strict=True)]


def client_resets_agree(bundle: Bundle, exported: Recognizer, waveforms: Sequence[Tensor]) -> list[bool]:
    """Return, per utterance, whether the client's tokens equal ours after a reset in the middle of the audio."""
    before = [client_input(bundle, waveform, spare_frames=3) for waveform in (waveforms[-1], *waveforms[:-1])]
    after = [client_input(bundle, waveform) for waveform in waveforms]
    expected = []
    for earlier, later in zip(before, after, strict=True):
        stream = exported.stream()
        stream.feed(earlier)
        stream.next_utterance()
        stream.feed(later)
        expected.append(_printed(bundle.vocabulary, stream.tokens))
    return [result.symbols == ours for result, ours in zip(_client(bundle, after, before), expected, strict=True)]


def _client(bundle: Bundle, waveforms: Sequence[Tensor], before: Sequence[Tensor] = ()) -> list[ClientResult]:
    model, tokens = bundle.folder / bundle.graph, bundle.folder / TOKENS
    inputs, earlier = ([waveform.numpy() for waveform in part] for part in (waveforms, before))
    try:
        return run_client(model, tokens, inputs, CLIENT_PACKET_SAMPLES, earlier)
    except ClientFailure as error:
        raise BundleError(f"sherpa-onnx cannot run it: {error}", where=bundle.folder) from error


def client_input(bundle: Bundle, waveform: Tensor, spare_frames: int = 1) -> Tensor:
    """Append silence, [S] → [S'], after which the client has decoded exactly our chunks.

    The client takes a step only when one frame more than the window is available; without an end of its input, two
    further frames are needed, which depend on the samples that follow.
    """
    streaming = bundle.info.streaming
    samples = padded_num_samples(len(waveform), streaming.context, streaming.tail_ms)
    samples += spare_frames * FRAME_SHIFT_SAMPLES
    return torch.nn.functional.pad(waveform, (0, samples - len(waveform)))


def _same(vocabulary: Vocabulary, result: ClientResult, alignment: EmittedTokens) -> bool:
    printed = _printed(vocabulary, alignment.tokens)
    seconds = torch.tensor(alignment.frames, dtype=torch.float64) * FRAME_SHIFT_MS / 1000
    times_agree = len(result.seconds) == len(seconds) and torch.allclose(
        torch.tensor(result.seconds, dtype=torch.float64), seconds, atol=FRAME_SHIFT_MS / 4000
    )
    texts_agree = _letters(result.text) == _letters(vocabulary.decode(alignment.tokens))
    return result.symbols == printed and times_agree and texts_agree


def _printed(vocabulary: Vocabulary, tokens: Sequence[int]) -> list[str]:
    """Symbols in the client's output."""
    symbols = [vocabulary.symbols[token] for token in tokens]
    return [" " + symbol[1:] if symbol.startswith(WORD_SEPARATOR) else symbol for symbol in symbols]


def _letters(text: str) -> str:
    """Letters and digits only: the client drops a punctuation mark (our apostrophe) that begins its text."""
    return "".join(character for character in text if character.isalnum())
