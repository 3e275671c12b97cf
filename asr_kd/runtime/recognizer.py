"""Audio to text with a model folder (torch) or an exported bundle (onnxruntime, torch.export).

Whole utterances in batches, or live streams; a chunked model gives the same text either way.

Shapes: B utterances, S samples, T feature frames, V vocabulary.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr_kd.decoding.base import NOTHING, Decoder, Hypothesis, text_of
from asr_kd.decoding.beam import open_decoder
from asr_kd.decoding.greedy import GreedyDecoder
from asr_kd.decoding.settings import GREEDY, DecodingSettings, EndpointSettings
from asr_kd.errors import CheckpointError
from asr_kd.features.fbank import SAMPLE_RATE, StreamingFbank, batches_by_duration, fbank, pad_batch
from asr_kd.models.acoustic_model import EncoderOutput
from asr_kd.models.settings import Context, Streaming
from asr_kd.models.weights import DESCRIPTION as MODEL_DESCRIPTION
from asr_kd.models.weights import NO_PICKLES, LoadedModel, Model, build_model, load_model
from asr_kd.runtime.backend import DEFAULT_TAIL_MS, Backend, TorchBackend, check_numbers, padded_num_samples, run_chunks
from asr_kd.runtime.bundle import DESCRIPTION as BUNDLE_DESCRIPTION
from asr_kd.runtime.bundle import PT2, Bundle, read_bundle, split_graph
from asr_kd.runtime.graph_backends import OnnxBackend, Pt2Backend
from asr_kd.runtime.streaming import DEFAULT_ENDPOINT, StreamingRecognizer, check_samples
from asr_kd.runtime.wire import unprintable_tokens
from asr_kd.text.vocabulary import Vocabulary

BATCH_SECONDS = 120.0
"""Padded audio in one batch."""

LONGEST_MASKED_FRAMES = 12_000
"""Feature frames (two minutes) up to which a masked pass is faster than chunks; its attention is quadratic."""


class Recognizer:
    """A model and its vocabulary; the decoder is greedy by default.

    `tail_ms` is silence after each utterance, for chunked models only; `name` is for error messages.
    """

    def __init__(
        self,
        backend: Backend[Any],
        vocabulary: Vocabulary,
        *,
        tail_ms: int = DEFAULT_TAIL_MS,
        name: str = "model",
        decoder: Decoder | None = None,
    ) -> None:
        self.backend, self.vocabulary, self.tail_ms, self.name = backend, vocabulary, tail_ms, name
        self.decoder: Decoder = decoder or GreedyDecoder(vocabulary.blank_id)

    @property
    def context(self) -> Context | None:
        return self.backend.context

    def stream(
        self, endpoint: EndpointSettings = DEFAULT_ENDPOINT, *, cut_at_endpoints: bool = False
    ) -> StreamingRecognizer:
        """Start a live stream, cut where an utterance has ended or not; see `StreamingRecognizer`.

        Raises:
            CheckpointError: a full-context model.
        """
        if self.context is None:
            raise CheckpointError(
                "is a full-context model and cannot stream",
                where=self.name,
                expected="a model trained with model.streaming",
                remedy="Transcribe whole files with it, or choose a streaming student",
            )
        settings = (self.tail_ms, self.name, self.decoder, endpoint, cut_at_endpoints)
        return StreamingRecognizer(self.backend, self.vocabulary, *settings)

    def in_context(self, context: Context) -> "Recognizer":
        """Return the recognizer in another context, for models trained with dynamic chunks.

        Raises:
            CheckpointError: a full-context model, or a bundle, whose context is fixed.
        """
        if not isinstance(self.backend, TorchBackend):
            raise CheckpointError("is a bundle, whose chunk is fixed", where=self.name, expected="a model folder")
        changed = copy(self)
        changed.backend = TorchBackend(_in_context(self.backend.model, context, self.name), self.backend.unprintable)
        return changed

    def transcribe(self, waveforms: Sequence[Tensor], *, batch_seconds: float = BATCH_SECONDS) -> list[str]:
        """Return the text of whole utterances, [S] each at 16 kHz in [−1, 1], any number and order of lengths.

        Raises:
            AudioError: a waveform is not such audio.
        """
        found = self.hypotheses(waveforms, batch_seconds=batch_seconds)
        return [text_of(nbest[0], self.vocabulary) for nbest in found]

    def hypotheses(
        self, waveforms: Sequence[Tensor], *, batch_seconds: float = BATCH_SECONDS
    ) -> list[list[Hypothesis]]:
        """As `transcribe`, returning the n-best hypotheses of each, at least one; a frame is 40 ms."""
        found = [[NOTHING]] * len(waveforms)
        for batch in batches_by_duration([len(waveform) for waveform in waveforms], batch_seconds * SAMPLE_RATE):
            output = self.log_probs([waveforms[index] for index in batch])
            for index, nbest in zip(batch, self.decoder.decode(output.log_probs, output.lens), strict=True):
                found[index] = nbest
        return found

    def log_probs(self, waveforms: Sequence[Tensor]) -> EncoderOutput:
        """Return log-probabilities of one batch, [B, T', V] with lengths [B]; a frame is 40 ms.

        For chunked models each utterance is padded by `padded_num_samples`, as in their streams.

        Raises:
            AudioError: a waveform is not audio.
            CheckpointError: the model gives NaN.
        """
        features, lens = pad_batch([self.features(waveform) for waveform in waveforms])
        if self.context is not None and features.shape[1] > LONGEST_MASKED_FRAMES:
            output = run_chunks(self.backend, features, lens)
        else:
            output = self.backend.log_probs(features, lens)
        valid = torch.arange(output.log_probs.shape[1]) < output.lens.unsqueeze(1)
        check_numbers(output.log_probs[valid], self.name)
        return output

    def features(self, waveform: Tensor) -> Tensor:
        """Return the features of one utterance, [S] → [T, 80], its padding included.

        Raises:
            AudioError: not audio.
        """
        waveform = check_samples(waveform)
        if self.context is None:
            return fbank(waveform)
        samples = padded_num_samples(len(waveform), self.context, self.tail_ms)
        # As in streams: the last bits of `fbank` differ.
        computer = StreamingFbank()
        padded = torch.nn.functional.pad(waveform, (0, samples - len(waveform)))
        return torch.cat([computer.accept(padded), computer.finish()])


def open_recognizer(
    path: Path | str,
    *,
    device: str = "cpu",
    num_threads: int = 1,
    decoding: DecodingSettings = GREEDY,
) -> Recognizer:
    """Open a model folder or a bundle, with the bundle's silence after an utterance, or the default.

    Args:
        path: a folder with model.json (torch on `device`) or bundle.json (onnxruntime or torch.export), or a graph of a
            bundle, such as BUNDLE/model.int8.onnx.
        device: of a model folder.
        num_threads: of a bundle.
        decoding: settings of the decoder.

    Raises:
        CheckpointError: neither of the two, or a damaged model folder.
        BundleError: a damaged bundle.
        LanguageModelError: the LM or lexicon does not fit.
        MissingExtraError: a bundle without onnxruntime, a beam without flashlight-text.
    """
    folder, graph = split_graph(Path(path))
    if (folder / BUNDLE_DESCRIPTION).is_file():
        bundle = read_bundle(folder, graph)
        return Recognizer(
            open_backend(bundle, num_threads),
            bundle.vocabulary,
            tail_ms=bundle.info.streaming.tail_ms,
            name=str(folder),
            decoder=open_decoder(bundle.vocabulary, decoding),
        )
    if not (folder / MODEL_DESCRIPTION).is_file():
        raise CheckpointError(
            "is neither a model folder nor a bundle" if folder.exists() else "does not exist",
            where=folder,
            expected=f"a folder with {MODEL_DESCRIPTION} or {BUNDLE_DESCRIPTION}; {NO_PICKLES}",
            remedy="Pass a folder such as students/NAME/model or export/NAME of a run's work_dir",
        )
    return torch_recognizer(load_model(folder, device), decoding=decoding)


def torch_recognizer(
    loaded: LoadedModel, *, tail_ms: int = DEFAULT_TAIL_MS, decoding: DecodingSettings = GREEDY
) -> Recognizer:
    """Return a recognizer of a loaded model."""
    backend = TorchBackend(loaded.model, unprintable_tokens(loaded.vocabulary))
    decoder = open_decoder(loaded.vocabulary, decoding)
    return Recognizer(backend, loaded.vocabulary, tail_ms=tail_ms, name=str(loaded.folder), decoder=decoder)


def with_context(loaded: LoadedModel, context: Context) -> LoadedModel:
    """Return the model in another context, for models trained with dynamic chunks.

    Raises:
        CheckpointError: a full-context model.
    """
    return replace(loaded, model=_in_context(loaded.model, context, str(loaded.folder)))


def _in_context(model: Model, context: Context, name: str) -> Model:
    """The same weights in another context."""
    streaming = model.settings.streaming
    if streaming is None:
        raise CheckpointError("is a full-context model", where=name, expected="a streaming one")
    changed = {**streaming.model_dump(), **context._asdict()}
    settings = model.settings.model_copy(update={"streaming": Streaming.model_validate(changed)})
    other = build_model(settings, model.vocab_size).to(model.mean.device).eval()
    other.load_state_dict(model.state_dict())
    return other


def open_backend(bundle: Bundle, num_threads: int = 1) -> OnnxBackend | Pt2Backend:
    """Load the graph of a bundle; threads are those of a step in onnxruntime, torch has its own setting.

    Raises:
        BundleError: the graph cannot be loaded, or its inputs or outputs are not those of the wire format.
        MissingExtraError: onnxruntime is needed and not installed.
    """
    return Pt2Backend(bundle) if bundle.graph == PT2 else OnnxBackend(bundle, num_threads)
