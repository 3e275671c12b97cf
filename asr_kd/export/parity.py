"""Proof that a bundle does what its model does: graph against torch, batch against single, client against us.

On real utterances, before the bundle gets its name. Knows nothing of references: it compares, it does not score.

Shapes: S samples, T frames, V vocabulary.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from asr_kd.config import Settings
from asr_kd.decoding.greedy import Alignment
from asr_kd.errors import BundleError, MissingExtraError
from asr_kd.export.sherpa_client import ClientFailure, ClientResult, client_is_installed, run_client
from asr_kd.features.fbank import FRAME_SHIFT_SAMPLES, SAMPLE_RATE
from asr_kd.models.subsampling import FACTOR, FRAME_SHIFT_MS, feature_frames_for
from asr_kd.models.weights import LoadedModel
from asr_kd.runtime.bundle import DESCRIPTION, MODEL, TOKENS, Bundle, read_bundle
from asr_kd.runtime.onnx_backend import OnnxBackend
from asr_kd.runtime.padding import padded_num_samples
from asr_kd.runtime.recognizer import Recognizer, torch_recognizer
from asr_kd.text.vocabulary import WORD_SEPARATOR, Vocabulary

TOLERANCE = 1e-3
"""Largest difference of a log-probability, in nats; float32 graphs usually stay below 2e-5."""

TIE = 2 * TOLERANCE
"""Two tokens this close in some frame may swap between builds of a runtime; it is counted, and no failure."""

REPORT = "Do not use it; please report the versions of torch, onnxruntime and sherpa-onnx and the model's settings"

PACKET_SAMPLES = 2_500
"""Of the streamed transcripts: neither a frame nor a chunk is a multiple of it."""


class ParityReport(Settings):
    """What was compared, and what came out."""

    utterances: int
    seconds: float
    frames: int
    tolerance: float = TOLERANCE
    graph_difference: float
    """Largest |log-probability| difference, the graph's chunks against torch's masked pass."""
    batch_difference: float
    """The same, streams at different positions in one batch against each alone."""
    transcripts_equal: int
    """Streamed through the graph = streamed through torch: tokens and frames."""
    client: str = ""
    """Name and version of the client that ran it; empty when that was switched off."""
    client_transcripts_equal: int = 0
    """The client's tokens, their times and the letters of its text = ours."""
    ties: int = 0
    """Utterances where two tokens were too close to call and that came out differently."""


def verify_bundle(
    folder: Path, source: LoadedModel, waveforms: Sequence[Tensor], *, with_client: bool = True
) -> ParityReport:
    """Compare a bundle with the model it was made from.

    Args:
        folder: the bundle.
        source: its model, with the same chunk and left context.
        waveforms: [S] each, real speech at 16 kHz in [−1, 1].
        with_client: also run sherpa-onnx, in a process of its own.

    Raises:
        BundleError: damaged, made from another model, or not the same results; says how many and how far.
        MissingExtraError: onnxruntime or the client is not installed.
        ValueError: no waveforms.
    """
    if not waveforms:
        raise ValueError("parity needs at least one utterance to compare")
    bundle = read_bundle(folder)
    _check_origin(bundle, source)
    backend = OnnxBackend(bundle)
    tail_ms = bundle.info.streaming.tail_ms
    exported = Recognizer(backend, bundle.vocabulary, tail_ms=tail_ms, name=str(folder))
    original = torch_recognizer(source, tail_ms=tail_ms)

    single, masked = ([r.log_probs([w]).log_probs[0] for w in waveforms] for r in (exported, original))
    mixed = mixed_log_probs(backend, [exported.features(waveform) for waveform in waveforms])
    graph_difference, batch_difference = _difference(single, masked), _difference(single, mixed)
    _refuse_distance(graph_difference, batch_difference, folder)

    heard = stream_alignments(exported, waveforms)
    close = [_closest_call(log_probs) < TIE for log_probs in masked]
    same = [ours == theirs for ours, theirs in zip(heard, stream_alignments(original, waveforms), strict=True)]
    _refuse_differences(same, close, folder, "streamed through torch")
    client, client_same = "", [True] * len(waveforms)
    if with_client:
        client = _client_version()
        client_same = _client_agrees(bundle, waveforms, heard)
        _refuse_differences(client_same, close, folder, f"from {client}")
    return ParityReport(
        utterances=len(waveforms),
        seconds=round(sum(len(waveform) for waveform in waveforms) / SAMPLE_RATE, 3),
        frames=sum(len(log_probs) for log_probs in single),
        graph_difference=graph_difference,
        batch_difference=batch_difference,
        transcripts_equal=sum(same),
        client=client,
        client_transcripts_equal=sum(client_same) if with_client else 0,
        ties=sum(not (a and b) for a, b in zip(same, client_same, strict=True)),
    )


def stream_alignments(recognizer: Recognizer, waveforms: Sequence[Tensor]) -> list[Alignment]:
    """Tokens and frames of each utterance through the live streaming path, packet by packet."""
    alignments = []
    for waveform in waveforms:
        stream = recognizer.stream()
        for packet in waveform.split(PACKET_SAMPLES):
            stream.accept(packet)
        stream.final()
        alignments.append(Alignment(stream.tokens, stream.token_frames))
    return alignments


def mixed_log_probs(backend: OnnxBackend, features: Sequence[Tensor]) -> list[Tensor]:
    """Log-probabilities [T', V] of each utterance when stream n joins the batch n chunks late, as clients do.

    Args:
        backend: the graph.
        features: [T, 80] each, complete windows.
    """
    shift, window = FACTOR * backend.context.chunk_frames, feature_frames_for(backend.context.chunk_frames)
    chunks = [len(item.unfold(0, window, shift)) for item in features]
    states = [backend.initial_state(1) for _ in features]
    outputs: list[list[Tensor]] = [[] for _ in features]
    for round_number in range(max(index + count for index, count in enumerate(chunks))):
        active = [n for n, count in enumerate(chunks) if n <= round_number < n + count]
        if not active:
            continue
        starts = [(round_number - n) * shift for n in active]
        windows = torch.stack([features[n][start : start + window] for n, start in zip(active, starts, strict=True)])
        log_probs, after = backend.step(windows, backend.join([states[n] for n in active]))
        for n, rows, state in zip(active, log_probs, backend.split(after), strict=True):
            outputs[n].append(rows)
            states[n] = state
    return [torch.cat(rows) for rows in outputs]


def _check_origin(bundle: Bundle, source: LoadedModel) -> None:
    if bundle.info.trace.model_sha256 != source.sha256:
        raise BundleError(
            f"was made from the weights {bundle.info.trace.model_sha256[:12]}…",
            expected=f"{source.sha256[:12]}… of {source.folder}",
            where=bundle.folder / DESCRIPTION,
            remedy="Export the model again",
        )


def _difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Largest absolute difference; another shape is as different as can be."""
    if any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return float("inf")
    return float(torch.stack([(a - b).abs().max() for a, b in zip(ours, theirs, strict=True)]).max())  # keeps NaN


def _refuse_distance(graph_difference: float, batch_difference: float, folder: Path) -> None:
    if not (graph_difference <= TOLERANCE and batch_difference <= TOLERANCE):  # NaN is refused too
        raise BundleError(
            f"its log-probabilities differ from its model's by {graph_difference:.2g} nats, and batched from single "
            f"by {batch_difference:.2g}",
            expected=f"at most {TOLERANCE:g}",
            where=folder / MODEL,
            remedy=REPORT,
        )


def _closest_call(log_probs: Tensor) -> float:
    """Smallest lead of the best token over the next, of all frames of [T, V]."""
    best, second = log_probs.topk(2, dim=-1).values.unbind(-1)
    return float((best - second).min())


def _refuse_differences(same: Sequence[bool], close: Sequence[bool], folder: Path, other: str) -> None:
    wrong = [index for index, (equal, tie) in enumerate(zip(same, close, strict=True)) if not equal and not tie]
    if wrong:
        raise BundleError(
            f"{len(wrong)} of {len(same)} transcripts differ from those {other} (utterances {wrong[:10]})",
            expected="the same tokens in the same frames",
            where=folder / MODEL,
            remedy=REPORT,
        )


def _client_version() -> str:
    if not client_is_installed():
        raise MissingExtraError("sherpa-onnx", "export")
    return f"sherpa-onnx {version('sherpa-onnx')}"


def _client_agrees(bundle: Bundle, waveforms: Sequence[Tensor], heard: Sequence[Alignment]) -> list[bool]:
    """Whether the client's tokens, times and text are ours, an utterance."""
    try:
        results = run_client(
            bundle.folder / MODEL, bundle.folder / TOKENS, [client_input(bundle, item).numpy() for item in waveforms]
        )
    except ClientFailure as error:
        raise BundleError(f"sherpa-onnx cannot run it: {error}", where=bundle.folder) from error
    return [_same(bundle.vocabulary, *pair) for pair in zip(results, heard, strict=True)]


def client_input(bundle: Bundle, waveform: Tensor) -> Tensor:
    """A waveform with the silence after which the client has taken exactly our chunks, [S] → [S'].

    It takes a step only when one more frame than the window is there, so it gets one frame more than we do.
    """
    streaming = bundle.info.streaming
    samples = padded_num_samples(len(waveform), streaming.chunk_frames, streaming.tail_ms) + FRAME_SHIFT_SAMPLES
    return torch.nn.functional.pad(waveform, (0, samples - len(waveform)))


def _same(vocabulary: Vocabulary, result: ClientResult, heard: Alignment) -> bool:
    symbols = [vocabulary.symbols[token] for token in heard.tokens]
    printed = [" " + symbol[1:] if symbol.startswith(WORD_SEPARATOR) else symbol for symbol in symbols]
    seconds = torch.tensor(heard.frames, dtype=torch.float64) * FRAME_SHIFT_MS / 1000
    times_agree = len(result.seconds) == len(seconds) and torch.allclose(
        torch.tensor(result.seconds, dtype=torch.float64), seconds, atol=FRAME_SHIFT_MS / 4000
    )
    return (
        result.symbols == printed and times_agree and _letters(result.text) == _letters(vocabulary.decode(heard.tokens))
    )


def _letters(text: str) -> str:
    """Letters and digits only: the client drops a punctuation mark (our apostrophe) that begins its text."""
    return "".join(character for character in text if character.isalnum())
