"""Verify that a bundle gives the results of its model, on real utterances.

The graph is compared with torch, batches with single streams, reset streams with fresh ones, and the client with us.
For 8-bit weights, which cannot be equal, and whose streams share a scale in a batch, the differences are measured.

Shapes: S samples, T frames, V vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from asr_kd.config import Settings
from asr_kd.decoding.greedy import greedy
from asr_kd.errors import BundleError
from asr_kd.export.client_parity import EmittedTokens, client_agrees, client_resets_agree, client_version
from asr_kd.features.fbank import SAMPLE_RATE
from asr_kd.models.weights import LoadedModel
from asr_kd.runtime.backend import Backend
from asr_kd.runtime.bundle import DESCRIPTION, INT8, PT2, Bundle, read_bundle
from asr_kd.runtime.recognizer import Recognizer, open_backend, torch_recognizer

TOLERANCE = 1e-3
"""Largest difference of a log-probability, nats; float32 graphs usually stay below 2e-5."""

TIE = 2 * TOLERANCE
"""Two tokens this close in some frame may swap between builds of a runtime; this is counted and is no failure."""

NEAR = 0.8
"""Least share of frames in which 8-bit weights keep the best token, or one within `NEAR_TIE` of it."""

NEAR_TIE = 0.5
"""Nats. A model that is hardly trained gives many tokens nearly equal scores; rounding swaps them without harm."""

REPORT = "Do not use it; please report the versions of torch, onnxruntime and sherpa-onnx and the model's settings"

PACKET_SAMPLES = 2_500
"""Packets of the streamed transcripts; neither a frame nor a chunk is a multiple of it."""


class ParityReport(Settings):
    """Results of the comparisons."""

    utterances: int
    seconds: float
    frames: int
    tolerance: float = TOLERANCE
    graph_difference: float
    """Largest |log-probability| difference, the graph's chunks against torch's masked pass."""
    batch_difference: float
    """The same, streams at different positions in one batch against each alone."""
    transcripts_equal: int
    """Utterances with the same tokens and frames streamed through the graph and through torch."""
    client: str = ""
    """Name and version of the client; empty when it was not run."""
    client_transcripts_equal: int = 0
    """Utterances with our tokens, times and letters in the client's results."""
    ties: int = 0
    """Utterances that differ, with two tokens closer than `TIE` in some frame."""
    resets_equal: int = 0
    """Utterances with the same result from a fresh stream and from one that was reset after another utterance."""
    client_resets_equal: int = 0
    """Utterances that the client decodes as we do after a reset in the middle of the audio."""
    pt2: dict[str, Any] = Field(default={})
    """The same for model.pt2, where it exists beside model.onnx."""
    int8: dict[str, Any] = Field(default={})
    """Differences of model.int8.onnx, see `Int8Report`."""


class Int8Report(Settings):
    """Differences between 8-bit and float32 weights; refused only where many frames have clearly another best token.

    Activations have one scale per step, which the streams of a batch share, so a stream's log-probabilities depend on
    its neighbours. Float32 forms must give equal results in batches; here the difference is reported.
    """

    difference: float
    """Largest |log-probability| difference to torch."""
    batch_difference: float
    """The same, streams at different positions in one batch against each alone."""
    batch_transcripts_equal: int
    """Utterances with the same tokens in that batch and alone."""
    best_token_agreement: float
    """Share of frames in which the best token is the same as in torch."""
    transcripts_equal: int
    """Utterances with the same tokens and frames as streamed in float32."""
    client: str = ""
    client_transcripts_equal: int = 0
    """Utterances with our result from the client; other builds of onnxruntime round otherwise: no failure."""


def verify_bundle(
    folder: Path, source: LoadedModel, waveforms: Sequence[Tensor], *, with_client: bool = True
) -> ParityReport:
    """Compare a bundle with its source model, which has the same context.

    Args:
        folder, source: the bundle and its model.
        waveforms: [S] each, real speech at 16 kHz in [−1, 1].
        with_client: also run sherpa-onnx, in a process of its own.

    Raises:
        BundleError: damaged, made from another model, or with other results; states how many and the difference.
        MissingExtraError: onnxruntime or the client is not installed.
        ValueError: no waveforms.
    """
    if not waveforms:
        raise ValueError("parity needs at least one utterance to compare")
    info = read_bundle(folder).info
    if info.trace.model_sha256 != source.sha256:
        raise BundleError(
            f"was made from the weights {info.trace.model_sha256[:12]}…",
            expected=f"{source.sha256[:12]}… of {source.folder}",
            where=folder / DESCRIPTION,
            remedy="Export the model again",
        )
    tail_ms = info.streaming.tail_ms
    original = _Results(torch_recognizer(source, tail_ms=tail_ms), waveforms)
    reports: dict[str, ParityReport | Int8Report] = {}
    for form in info.files.graphs:
        bundle = read_bundle(folder, form)
        recognizer = Recognizer(open_backend(bundle), bundle.vocabulary, tail_ms=tail_ms, name=str(folder))
        verify = _verify_int8 if form == INT8 else _verify_exact
        reports[form] = verify(bundle, _Results(recognizer, waveforms), original, with_client and form != PT2)
    main = next(report for report in reports.values() if isinstance(report, ParityReport))
    named = {"pt2": reports.get(PT2), "int8": reports.get(INT8)}
    further = {key: report.model_dump(mode="json") for key, report in named.items() if report and report is not main}
    return main.model_copy(update=further)


class _Results:
    """Results of one form of the model on every utterance: log-probabilities [T', V] of each alone, and streamed."""

    def __init__(self, recognizer: Recognizer, waveforms: Sequence[Tensor]) -> None:
        self.recognizer, self.waveforms = recognizer, waveforms
        self.log_probs = [recognizer.log_probs([waveform]).log_probs[0] for waveform in waveforms]
        self.alignments = stream_alignments(recognizer, waveforms)

    def batched(self) -> list[Tensor]:
        """Return the log-probabilities of each in batches of streams at different positions."""
        return mixed_log_probs(self.recognizer.backend, [self.recognizer.features(audio) for audio in self.waveforms])


def _verify_exact(bundle: Bundle, exported: _Results, original: _Results, with_client: bool) -> ParityReport:
    """Verify a float32 form: all results must be equal."""
    waveforms, single, alignments = exported.waveforms, exported.log_probs, exported.alignments
    graph_difference = _difference(single, original.log_probs)
    batch_difference = _difference(single, exported.batched())
    if not (graph_difference <= TOLERANCE and batch_difference <= TOLERANCE):  # NaN is refused too
        raise bundle.error(
            f"its log-probabilities differ from its model's by {graph_difference:.2g} nats, and batched from single "
            f"by {batch_difference:.2g}",
            expected=f"at most {TOLERANCE:g}",
            remedy=REPORT,
        )
    best_two = [log_probs.topk(2, dim=-1).values for log_probs in original.log_probs]
    close = [float((best[:, 0] - best[:, 1]).min()) < TIE for best in best_two]
    same = _equal(alignments, original.alignments)
    _refuse_differences(bundle, same, close, "streamed through torch")
    resets = _equal(alignments, reset_alignments(exported.recognizer, waveforms))
    _refuse_differences(bundle, resets, [False] * len(resets), "of streams that were reset")
    client, client_same, client_resets = "", [], []
    if with_client:
        client = client_version()
        client_same = client_agrees(bundle, waveforms, alignments)
        _refuse_differences(bundle, client_same, close, f"from {client}")
        client_resets = client_resets_agree(bundle, exported.recognizer, waveforms)
        _refuse_differences(bundle, client_resets, [any(close)] * len(close), f"from {client} after a reset")
    return ParityReport(
        utterances=len(waveforms),
        seconds=round(sum(len(waveform) for waveform in waveforms) / SAMPLE_RATE, 3),
        frames=sum(len(log_probs) for log_probs in single),
        graph_difference=graph_difference,
        batch_difference=batch_difference,
        transcripts_equal=sum(same),
        client=client,
        client_transcripts_equal=sum(client_same),
        ties=sum(not (a and b) for a, b in zip(same, client_same or same, strict=True)),
        resets_equal=sum(resets),
        client_resets_equal=sum(client_resets),
    )


def _verify_int8(bundle: Bundle, exported: _Results, original: _Results, with_client: bool) -> Int8Report:
    """Measure the form with 8-bit weights."""
    single, mixed = exported.log_probs, exported.batched()
    rounded, exact = torch.cat(single), torch.cat(original.log_probs)
    losses = best_token_losses(rounded, exact) if len(rounded) == len(exact) else torch.full((1,), torch.inf)
    near = float((losses <= NEAR_TIE).double().mean())  # NaN counts as far
    if near < NEAR:
        raise bundle.error(
            f"its best token is that of its model, or within {NEAR_TIE:g} nats of it, in {near:.1%} of frames",
            expected=f"at least {NEAR:.0%}",
            remedy="Use model.onnx; please report the model's settings",
        )
    best_paths = [
        [greedy(rows[None], torch.tensor([len(rows)]), bundle.vocabulary.blank_id)[0].tokens for rows in part]
        for part in (single, mixed)
    ]
    client_same = client_agrees(bundle, exported.waveforms, exported.alignments) if with_client else []
    return Int8Report(
        difference=_difference(single, original.log_probs),
        batch_difference=_difference(single, mixed),
        batch_transcripts_equal=sum(_equal(*best_paths)),
        best_token_agreement=float((losses == 0).double().mean()),
        transcripts_equal=sum(_equal(exported.alignments, original.alignments)),
        client=client_version() if with_client else "",
        client_transcripts_equal=sum(client_same),
    )


def _equal(ours: Sequence[object], theirs: Sequence[object]) -> list[bool]:
    return [one == other for one, other in zip(ours, theirs, strict=True)]


def best_token_losses(rounded: Tensor, exact: Tensor) -> Tensor:
    """Log-probability that is lost, by `exact`, when each frame's best token is taken from `rounded`.

    Args:
        rounded: [T, V], log-probabilities of the rounded weights.
        exact: [T, V], those of the model.

    Returns:
        [T], nats, 0 where the best token is the same.
    """
    return exact.max(dim=-1).values - exact.gather(-1, rounded.argmax(dim=-1, keepdim=True)).squeeze(-1)


def reset_alignments(recognizer: Recognizer, waveforms: Sequence[Tensor]) -> list[EmittedTokens]:
    """As `stream_alignments`, with one stream that is reset after each utterance, the last one first."""
    stream, alignments = recognizer.stream(), []
    for waveform in (waveforms[-1], *waveforms):
        stream.reset()
        stream.feed(waveform)
        stream.final()
        alignments.append(EmittedTokens(stream.tokens, stream.token_frames))
    return alignments[1:]


def stream_alignments(recognizer: Recognizer, waveforms: Sequence[Tensor]) -> list[EmittedTokens]:
    """Return tokens and frames of each utterance, streamed packet by packet."""
    alignments = []
    for waveform in waveforms:
        stream = recognizer.stream()
        for packet in waveform.split(PACKET_SAMPLES):
            stream.accept(packet)
        stream.final()
        alignments.append(EmittedTokens(stream.tokens, stream.token_frames))
    return alignments


def mixed_log_probs(backend: Backend[Any], features: Sequence[Tensor]) -> list[Tensor]:
    """Log-probabilities [T', V] of complete windows [T, 80] of each utterance, when stream n joins n chunks late."""
    if backend.context is None:
        raise ValueError("a full-context model has no chunks")
    shift, window = backend.context.shift_feature_frames, backend.context.window_feature_frames
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


def _difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Largest absolute difference; infinite for other shapes."""
    if any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return float("inf")
    return float(torch.stack([(a - b).abs().max() for a, b in zip(ours, theirs, strict=True)]).max())  # keeps NaN


def _refuse_differences(bundle: Bundle, same: Sequence[bool], close: Sequence[bool], other: str) -> None:
    wrong = [index for index, (equal, tie) in enumerate(zip(same, close, strict=True)) if not equal and not tie]
    if wrong:
        raise bundle.error(
            f"{len(wrong)} of {len(same)} transcripts differ from those {other} (utterances {wrong[:10]})",
            expected="the same tokens in the same frames",
            remedy=REPORT,
        )
