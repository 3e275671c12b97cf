"""Proof that a bundle does what its model does: graph against torch, batch against single, reset against fresh, client
against us. Of 8-bit weights, which cannot be equal, and whose streams share a scale in a batch: that they stay near.

On real utterances, before the bundle gets its name. Knows nothing of references: it compares, it does not score.

Shapes: S samples, T frames, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from asr_kd.config import Settings
from asr_kd.decoding.greedy import Alignment, greedy
from asr_kd.errors import BundleError, MissingExtraError
from asr_kd.export.sherpa_client import ClientFailure, ClientResult, client_is_installed, run_client
from asr_kd.features.fbank import FRAME_SHIFT_SAMPLES, SAMPLE_RATE
from asr_kd.models.subsampling import FACTOR, FRAME_SHIFT_MS, feature_frames_for
from asr_kd.models.weights import LoadedModel
from asr_kd.runtime.backend import Backend, padded_num_samples
from asr_kd.runtime.bundle import DESCRIPTION, INT8, MODEL, TOKENS, Bundle, read_bundle
from asr_kd.runtime.recognizer import Recognizer, open_backend, torch_recognizer
from asr_kd.text.vocabulary import WORD_SEPARATOR, Vocabulary

TOLERANCE = 1e-3
"""Largest difference of a log-probability, in nats; float32 graphs usually stay below 2e-5."""

TIE = 2 * TOLERANCE
"""Two tokens this close in some frame may swap between builds of a runtime; it is counted, and no failure."""

NEAR = 0.8
"""Share of frames in which 8-bit weights must leave the best token as it is; below, something is broken."""

REPORT = "Do not use it; please report the versions of torch, onnxruntime and sherpa-onnx and the model's settings"

CLIENT_PACKET_SAMPLES = 3_200
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
    resets_equal: int = 0
    """A stream that heard another utterance and was reset = a fresh one."""
    client_resets_equal: int = 0
    """Reset in the middle of the audio, the client goes on as we do."""
    pt2: dict[str, Any] = Field(default={})
    """The same of model.pt2, where there is one beside model.onnx."""
    int8: dict[str, Any] = Field(default={})
    """How near model.int8.onnx is, see `Int8Report`."""


class Int8Report(Settings):
    """8-bit weights beside float32 ones: measured, and refused only where the best token is another in many frames.

    What flows through has one scale a step, the streams of a batch share it, and so a stream's numbers depend on its
    neighbours by about as much as 8-bit weights cost at all. Of float32 forms, batched = single is demanded; here what
    it comes to is written down.
    """

    difference: float
    """Largest |log-probability| difference to torch."""
    batch_difference: float
    """The same, streams at different positions in one batch against each alone."""
    batch_transcripts_equal: int
    """Utterances whose tokens are in that batch what they are alone."""
    best_token_agreement: float
    """Share of frames in which the best token is the same as in torch."""
    transcripts_equal: int
    """Streamed = float32 streamed, tokens and frames."""
    client: str = ""
    client_transcripts_equal: int = 0
    """The client's = ours; another build of onnxruntime rounds otherwise, so this is counted and no failure."""


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
    forms = list(read_bundle(folder).info.files.graphs)
    original = _Original.of(source, waveforms, read_bundle(folder).info.streaming.tail_ms)
    exact = [
        _verify_exact(read_bundle(folder, form), source, original, with_client and form == MODEL)
        for form in forms
        if form != INT8
    ]
    rest = {"pt2": exact[1].model_dump(mode="json")} if len(exact) > 1 else {}
    if INT8 in forms:
        near = _verify_int8(read_bundle(folder, INT8), source, original, with_client)
        rest["int8"] = near.model_dump(mode="json")
    return exact[0].model_copy(update=rest)


@dataclass(frozen=True)
class _Original:
    """What torch says of the utterances."""

    waveforms: Sequence[Tensor]
    log_probs: list[Tensor]
    heard: list[Alignment]

    @classmethod
    def of(cls, source: LoadedModel, waveforms: Sequence[Tensor], tail_ms: int) -> "_Original":
        recognizer = torch_recognizer(source, tail_ms=tail_ms)
        masked = [recognizer.log_probs([waveform]).log_probs[0] for waveform in waveforms]
        return cls(waveforms, masked, stream_alignments(recognizer, waveforms))

    @property
    def close(self) -> list[bool]:
        """Of each utterance, whether two tokens are too close to call in some frame."""
        return [_closest_call(log_probs) < TIE for log_probs in self.log_probs]


def _verify_exact(bundle: Bundle, source: LoadedModel, original: _Original, with_client: bool) -> ParityReport:
    """A form in float32: everything must be equal."""
    waveforms, close, place = original.waveforms, original.close, bundle.folder / bundle.graph
    exported = _opened(bundle, source)
    single = [exported.log_probs([waveform]).log_probs[0] for waveform in waveforms]
    mixed = mixed_log_probs(exported.backend, [exported.features(waveform) for waveform in waveforms])
    graph_difference, batch_difference = _difference(single, original.log_probs), _difference(single, mixed)
    _refuse_distance(graph_difference, batch_difference, place)

    heard = stream_alignments(exported, waveforms)
    same = [ours == theirs for ours, theirs in zip(heard, original.heard, strict=True)]
    _refuse_differences(same, close, place, "streamed through torch")
    resets = [ours == theirs for ours, theirs in zip(heard, reset_alignments(exported, waveforms), strict=True)]
    _refuse_differences(resets, [False] * len(resets), place, "of streams that were reset")
    client, client_same, client_resets = "", [True] * len(waveforms), [False] * len(waveforms)
    if with_client:
        client = _client_version()
        client_same = _client_agrees(bundle, waveforms, heard)
        _refuse_differences(client_same, close, place, f"from {client}")
        client_resets = _client_resets_agree(bundle, exported, waveforms)
        _refuse_differences(client_resets, [any(close)] * len(close), place, f"from {client} after a reset")
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
        resets_equal=sum(resets),
        client_resets_equal=sum(client_resets),
    )


def _verify_int8(bundle: Bundle, source: LoadedModel, original: _Original, with_client: bool) -> Int8Report:
    """The form with 8-bit weights: near, or not the same model."""
    waveforms, place = original.waveforms, bundle.folder / bundle.graph
    exported = _opened(bundle, source)
    single = [exported.log_probs([waveform]).log_probs[0] for waveform in waveforms]
    mixed = mixed_log_probs(exported.backend, [exported.features(waveform) for waveform in waveforms])
    best = [torch.cat(rows).argmax(-1) for rows in (single, original.log_probs)]
    agreement = float((best[0] == best[1]).double().mean()) if len(best[0]) == len(best[1]) else 0.0
    if agreement < NEAR:
        raise BundleError(
            f"its best token is that of its model in {agreement:.1%} of frames",
            expected=f"at least {NEAR:.0%}",
            where=place,
            remedy="Use model.onnx; please report the model's settings",
        )
    heard = stream_alignments(exported, waveforms)
    client_same = _client_agrees(bundle, waveforms, heard) if with_client else []
    return Int8Report(
        difference=_difference(single, original.log_probs),
        batch_difference=_difference(single, mixed),
        batch_transcripts_equal=sum(
            _tokens(alone, bundle) == _tokens(batched, bundle) for alone, batched in zip(single, mixed, strict=True)
        ),
        best_token_agreement=agreement,
        transcripts_equal=sum(ours == theirs for ours, theirs in zip(heard, original.heard, strict=True)),
        client=_client_version() if with_client else "",
        client_transcripts_equal=sum(client_same),
    )


def _tokens(log_probs: Tensor, bundle: Bundle) -> list[int]:
    """Best path of one utterance, [T, V]."""
    return greedy(log_probs[None], torch.tensor([len(log_probs)]), bundle.vocabulary.blank_id)[0]


def _opened(bundle: Bundle, source: LoadedModel) -> Recognizer:
    _check_origin(bundle, source)
    tail_ms = bundle.info.streaming.tail_ms
    return Recognizer(open_backend(bundle), bundle.vocabulary, tail_ms=tail_ms, name=str(bundle.folder))


def reset_alignments(recognizer: Recognizer, waveforms: Sequence[Tensor]) -> list[Alignment]:
    """As `stream_alignments`, by one stream that is reset after each; before the first it hears the last."""
    stream, alignments = recognizer.stream(), []
    for waveform in (waveforms[-1], *waveforms):
        stream.reset()
        stream.feed(waveform)
        stream.final()
        alignments.append(Alignment(stream.tokens, stream.token_frames))
    return alignments[1:]


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


def mixed_log_probs(backend: Backend[Any], features: Sequence[Tensor]) -> list[Tensor]:
    """Log-probabilities [T', V] of each utterance when stream n joins the batch n chunks late, as clients do.

    Args:
        backend: the graph.
        features: [T, 80] each, complete windows.
    """
    if backend.context is None:
        raise ValueError("a full-context model has no chunks")
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


def _refuse_distance(graph_difference: float, batch_difference: float, place: Path) -> None:
    if not (graph_difference <= TOLERANCE and batch_difference <= TOLERANCE):  # NaN is refused too
        raise BundleError(
            f"its log-probabilities differ from its model's by {graph_difference:.2g} nats, and batched from single "
            f"by {batch_difference:.2g}",
            expected=f"at most {TOLERANCE:g}",
            where=place,
            remedy=REPORT,
        )


def _closest_call(log_probs: Tensor) -> float:
    """Smallest lead of the best token over the next, of all frames of [T, V]."""
    best, second = log_probs.topk(2, dim=-1).values.unbind(-1)
    return float((best - second).min())


def _refuse_differences(same: Sequence[bool], close: Sequence[bool], place: Path, other: str) -> None:
    wrong = [index for index, (equal, tie) in enumerate(zip(same, close, strict=True)) if not equal and not tie]
    if wrong:
        raise BundleError(
            f"{len(wrong)} of {len(same)} transcripts differ from those {other} (utterances {wrong[:10]})",
            expected="the same tokens in the same frames",
            where=place,
            remedy=REPORT,
        )


def _client_version() -> str:
    if not client_is_installed():
        raise MissingExtraError("sherpa-onnx", "export")
    return f"sherpa-onnx {version('sherpa-onnx')}"


def _client_agrees(bundle: Bundle, waveforms: Sequence[Tensor], heard: Sequence[Alignment]) -> list[bool]:
    """Whether the client's tokens, times and text are ours, an utterance."""
    results = _client(bundle, [client_input(bundle, waveform) for waveform in waveforms])
    return [_same(bundle.vocabulary, *pair) for pair in zip(results, heard, strict=True)]


def _client_resets_agree(bundle: Bundle, exported: Recognizer, waveforms: Sequence[Tensor]) -> list[bool]:
    """Whether the client's tokens are ours after a reset in the middle of the audio, where features go on."""
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
    heard, earlier = ([waveform.numpy() for waveform in part] for part in (waveforms, before))
    try:
        return run_client(model, tokens, heard, CLIENT_PACKET_SAMPLES, earlier)
    except ClientFailure as error:
        raise BundleError(f"sherpa-onnx cannot run it: {error}", where=bundle.folder) from error


def client_input(bundle: Bundle, waveform: Tensor, spare_frames: int = 1) -> Tensor:
    """A waveform with the silence after which the client has taken exactly our chunks, [S] → [S'].

    It takes a step only when one more frame than the window is there, so it gets one frame more than we do. Without
    an end of its input two more, which are not complete until what follows is heard.
    """
    streaming = bundle.info.streaming
    samples = padded_num_samples(len(waveform), streaming.chunk_frames, streaming.tail_ms)
    samples += spare_frames * FRAME_SHIFT_SAMPLES
    return torch.nn.functional.pad(waveform, (0, samples - len(waveform)))


def _same(vocabulary: Vocabulary, result: ClientResult, heard: Alignment) -> bool:
    printed = _printed(vocabulary, heard.tokens)
    seconds = torch.tensor(heard.frames, dtype=torch.float64) * FRAME_SHIFT_MS / 1000
    times_agree = len(result.seconds) == len(seconds) and torch.allclose(
        torch.tensor(result.seconds, dtype=torch.float64), seconds, atol=FRAME_SHIFT_MS / 4000
    )
    return (
        result.symbols == printed and times_agree and _letters(result.text) == _letters(vocabulary.decode(heard.tokens))
    )


def _printed(vocabulary: Vocabulary, tokens: Sequence[int]) -> list[str]:
    """Symbols as the client prints them."""
    symbols = [vocabulary.symbols[token] for token in tokens]
    return [" " + symbol[1:] if symbol.startswith(WORD_SEPARATOR) else symbol for symbol in symbols]


def _letters(text: str) -> str:
    """Letters and digits only: the client drops a punctuation mark (our apostrophe) that begins its text."""
    return "".join(character for character in text if character.isalnum())
