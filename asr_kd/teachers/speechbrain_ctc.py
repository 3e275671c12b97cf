"""CTC models of speechbrain as teachers. Opening one runs code: see `settings.ALLOW_CODE`.

A speechbrain model is a HyperPyYAML file that names the Python objects to build, with weights in pickles. There is no
safe way to read it, so it is only read with `allow_code: true` in the recipe, at the revision given there.
Utterances go through it one by one: its modules take relative lengths, which round at frame level.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from asr_kd.audio import SAMPLE_RATE
from asr_kd.config import user_path
from asr_kd.errors import CheckpointError, RecipeError
from asr_kd.files import sha256_of
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.teachers.base import arithmetic, ctc_vocabulary, sha256_of_tensors, with_precision
from asr_kd.teachers.frame_geometry import FrameGeometry, strided
from asr_kd.teachers.settings import ALLOW_CODE, Precision
from asr_kd.text.vocabulary import Vocabulary

DESCRIPTION = "hyperparams.yaml"
SHORTEST_SAMPLES = 400
"""One window of a spectrogram or of wav2vec2's convolutions; some front ends fail below it."""
MEASURED_SAMPLES = (SAMPLE_RATE, SAMPLE_RATE + 4 * 240 * SAMPLE_RATE // 1000)
"""Two lengths whose difference, 4 · 240 ms, holds whole numbers of 10, 20, 30, 40, 60 and 80 ms frames."""


class SpeechbrainTeacher:
    """An `EncoderASR` of speechbrain, a folder or a repository, as a teacher; see `teachers.base.Teacher`.

    `revision` is a commit, tag or branch; of a folder a word that is part of the identity.

    Raises:
        RecipeError: without `allow_code`; a model that is not CTC over 16 kHz, or whose frames cannot be placed.
        CheckpointError: files are missing, with the command that fetches them, or damaged.
    """

    def __init__(
        self,
        source: str,
        revision: str,
        *,
        allow_code: bool,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        if not allow_code:
            raise RecipeError(ALLOW_CODE, where=f"speechbrain:{source}@{revision}")
        self.name = f"{Path(source).name}@{revision}"
        self._device, self._precision = torch.device(device), precision
        self._model = _load(source, revision, self._device)
        self.vocabulary: Vocabulary = _vocabulary(self._model, self._outputs(), self.name)
        self.frame_shift_ms, self.frame_offset_ms = _grid(self._model.mods, self._measured_shift(), self.name)
        self.features: Mapping[str, Any] = {"kind": "speechbrain EncoderASR", "sample_rate": SAMPLE_RATE}
        weights = sha256_of_tensors(self._model.mods.state_dict())
        self.sha256 = with_precision(sha256_of({"weights": weights, "revision": revision}), precision)

    @torch.inference_mode()
    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        rows = [
            self._encode(waveform[:length]).log_softmax(dim=-1)  # of log-probabilities it changes nothing
            if length >= SHORTEST_SAMPLES
            else torch.zeros(0, len(self.vocabulary), device=self._device)
            for waveform, length in zip(waveforms, sample_lens.tolist(), strict=True)
        ]
        lens = torch.tensor([row.shape[0] for row in rows], device=self._device)
        return DensePosteriors(pad_sequence(rows, batch_first=True), lens)

    def _encode(self, waveform: Tensor) -> Tensor:
        with arithmetic(self._precision, self._device):
            encoded = self._model.encode_batch(waveform.unsqueeze(0), torch.ones(1))
        return encoded[0].float()

    @torch.inference_mode()
    def _outputs(self) -> int:
        encoded = self._encode(_noise(MEASURED_SAMPLES[0]))
        if encoded.ndim != 2:
            raise RecipeError(f"its encoder gives a tensor of {encoded.ndim + 1} dimensions", where=self.name)
        if (encoded >= 0).all() and torch.allclose(encoded.sum(-1), torch.ones(len(encoded)).to(encoded), atol=1e-3):
            raise RecipeError(
                "its encoder ends in probabilities", where=self.name, expected="logits or log-probabilities"
            )
        return encoded.shape[1]

    @torch.inference_mode()
    def _measured_shift(self) -> float:
        short, long = (self._encode(_noise(samples)).shape[0] for samples in MEASURED_SAMPLES)
        if long <= short:
            raise RecipeError("gives no more frames for longer audio", where=self.name, expected="a CTC encoder")
        return 1000 * (MEASURED_SAMPLES[1] - MEASURED_SAMPLES[0]) / SAMPLE_RATE / (long - short)


def _noise(num_samples: int) -> Tensor:
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(0)) * 0.05


def _load(source: str, revision: str, device: torch.device) -> Any:
    from speechbrain.inference.ASR import EncoderASR
    from speechbrain.utils.fetching import FetchConfig, LocalStrategy

    folder = user_path(source)
    there = folder.is_dir()  # the repository that it is a copy of is then unknown
    command = f"hf download {'OWNER/NAME' if there else source} --revision {revision} --local-dir {folder.name}"
    try:
        model = EncoderASR.from_hparams(
            source=str(folder) if there else source,
            local_strategy=LocalStrategy.NO_LINK,
            fetch_config=FetchConfig(revision=None if there else revision),
            run_opts={"device": str(device)},
        )
    # Its YAML may build anything, so anything may go wrong in it; the cause is kept.
    except Exception as error:
        raise CheckpointError(
            f"speechbrain cannot open it ({type(error).__name__}: {' '.join(str(error).split())[:300]})",
            where=f"speechbrain:{source}@{revision}",
            expected=f"{DESCRIPTION} of an EncoderASR, and the files that its pretrainer names",
            remedy=f"Where there is a network, run: {command} — then copy the folder here and write "
            f"speechbrain:FOLDER@{revision}",
        ) from error
    rate = getattr(model.hparams, "sample_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise RecipeError(f"was trained on {rate} Hz", where=source, expected=f"{SAMPLE_RATE} Hz")
    return model


def _vocabulary(model: Any, outputs: int, name: str) -> Vocabulary:
    """Labels of speechbrain's CTCTextEncoder (a space between words) or of SentencePiece (pieces carry ▁)."""
    tokenizer = model.tokenizer
    labels: list[str | None] = [None] * outputs
    if hasattr(tokenizer, "ind2lab"):
        found, separator = {int(index): str(label) for index, label in tokenizer.ind2lab.items()}, " "
    elif hasattr(tokenizer, "id_to_piece"):
        found, separator = {index: tokenizer.id_to_piece(index) for index in range(tokenizer.get_piece_size())}, None
    else:
        raise RecipeError(
            f"its tokenizer is a {type(tokenizer).__name__}", where=name, expected="CTCTextEncoder or SentencePiece"
        )
    for index, label in found.items():
        if index < outputs:
            labels[index] = label
    return ctc_vocabulary(labels, _blank_id(model), separator, name)


def _blank_id(model: Any) -> int | None:
    """From the greedy decoder that the description configures, else from its `blank_index`."""
    decode = model.hparams.decoding_function
    if isinstance(decode, functools.partial) and "blank_id" in decode.keywords:
        return int(decode.keywords["blank_id"])
    blank = getattr(model.hparams, "blank_index", None)
    return None if blank is None else int(blank)


def _grid(modules: nn.Module, measured_ms: float, name: str) -> tuple[float, float]:
    """Frame shift and offset in milliseconds, from the front end, checked against the measured shift.

    A wav2vec2-like front end has them in its configuration. A centred spectrogram has frame 0 at 0 ms, and
    speechbrain's convolutions, padded to "same", leave it there.
    """
    for front in _front_ends(modules):
        config: Any = getattr(front, "config", None)
        if hasattr(config, "conv_kernel") and hasattr(config, "conv_stride"):
            geometry = FrameGeometry(strided(config.conv_kernel, config.conv_stride))
            if abs(geometry.shift_ms - measured_ms) < 1e-6:
                return geometry.shift_ms, geometry.offset_ms
        elif type(front).__name__ == "STFT" and getattr(front, "center", False):
            return measured_ms, 0.0
    raise RecipeError(
        f"has frames of {measured_ms:g} ms, but its front end does not give their positions",
        where=name,
        expected="a wav2vec2-like encoder without further striding, or a centred spectrogram (Fbank)",
        remedy="Convert the model to transformers' format and use hf:, or to a folder of this project",
    )


def _front_ends(modules: nn.Module) -> Iterator[Any]:
    """All parts of the model, those that are not registered as modules included (Fbank keeps its STFT so)."""
    for module in modules.modules():
        yield module
        yield from (value for value in vars(module).values() if type(value).__name__ == "STFT")
