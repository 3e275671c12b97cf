"""CTC models of torchaudio.pipelines as teachers: WAV2VEC2_ASR_*, HUBERT_ASR_*, VOXPOPULI_ASR_*.

Labels, normalisation and frames come from the bundle. Weights lie in torch hub's cache, where torchaudio puts them.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlparse

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from asr_kd.audio import SAMPLE_RATE
from asr_kd.errors import CheckpointError, RecipeError
from asr_kd.files import sha256_of, sha256_of_file
from asr_kd.teachers.base import CtcTeacher, Forward, ctc_vocabulary
from asr_kd.teachers.frame_geometry import FrameGeometry, Layer
from asr_kd.teachers.settings import Precision
from asr_kd.text.vocabulary import BLANK

FAMILIES = ("WAV2VEC2_ASR_", "HUBERT_ASR_", "VOXPOPULI_ASR_")
HOST = "https://download.pytorch.org/torchaudio/models"
SEPARATOR = "|"
UnpicklingError: type[Exception] = torch.serialization.pickle.UnpicklingError
"""What torch raises for a file that is more than tensors; taken from there, so that nothing here imports pickle."""

Bundle: TypeAlias = Any
"""A torchaudio.pipelines.Wav2Vec2ASRBundle; torchaudio brings no types."""


def bundle_names() -> list[str]:
    """Names of all CTC bundles."""
    return [
        name
        for name in dir(torchaudio.pipelines)
        if name.startswith(FAMILIES)
        and isinstance(getattr(torchaudio.pipelines, name), torchaudio.pipelines.Wav2Vec2ASRBundle)
    ]


def open_torchaudio(name: str, device: torch.device | str = "cpu", precision: Precision = "fp32") -> CtcTeacher:
    """Open a bundle's model, fetched by torchaudio where there is a network.

    Raises:
        RecipeError: there is no such bundle.
        CheckpointError: its file is missing and cannot be fetched, with the command that fetches it elsewhere; or it
            is damaged.
    """
    bundle = _bundle(name)
    model = _load(bundle, name)
    normalised = bool(getattr(model, "normalize_waveform", False))
    # The wrapper normalises a whole batch at once, padding and neighbours included; here each row is, on its own.
    inner = model.model if normalised else model
    convolutions = inner.feature_extractor.conv_layers
    masks_padding = not any(isinstance(layer.layer_norm, nn.GroupNorm) for layer in convolutions)
    device = torch.device(device)
    return CtcTeacher(
        name=name,
        weights_sha256=sha256_of({"bundle": name, "file": sha256_of_file(cached_file(bundle))}),
        vocabulary=ctc_vocabulary(bundle.get_labels(blank=BLANK), 0, SEPARATOR, name),
        geometry=FrameGeometry(tuple(Layer(layer.kernel_size, layer.stride) for layer in convolutions)),
        features={"kind": "waveform", "sample_rate": SAMPLE_RATE, "normalised": normalised},
        forward=_forward(inner.to(device), normalised, masks_padding, device),
        masks_padding=masks_padding,
        device=device,
        precision=precision,
    )


def cached_file(bundle: Bundle) -> Path:
    """Where torch hub keeps the bundle's weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(_address(bundle)).path).name


def _address(bundle: Bundle) -> str:
    return bundle._path if bundle._path.startswith("https") else f"{HOST}/{bundle._path}"


def _bundle(name: str) -> Bundle:
    known = bundle_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        raise RecipeError(
            f"torchaudio.pipelines has no CTC bundle {name!r}",
            expected=f"one of {', '.join(known)}",
            remedy=f"Did you mean {near[0]}?" if near else "",
        )
    bundle = getattr(torchaudio.pipelines, name)
    if bundle.sample_rate != SAMPLE_RATE:
        raise RecipeError(f"{name} was trained on {bundle.sample_rate:g} Hz", expected=f"{SAMPLE_RATE} Hz")
    return bundle


def _load(bundle: Bundle, name: str) -> Any:
    file = cached_file(bundle)
    try:
        # Tensors only: the file is a pickle, and torch's restricted reader refuses anything else in it.
        return bundle.get_model(dl_kwargs={"map_location": "cpu", "weights_only": True})
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        if file.is_file():
            raise CheckpointError(
                f"cannot be read as {name}'s weights ({' '.join(str(error).split())[:300]})",
                where=file,
                remedy=f"Delete the file and fetch it again: {fetch_command(bundle)}",
            ) from error
        raise CheckpointError(
            f"{name}'s weights are missing and cannot be fetched here ({error})",
            where=file,
            expected="the file that torchaudio downloads (its publisher names no hash; the store records ours)",
            remedy=f"Where there is a network, run: {fetch_command(bundle)} — then copy the file to the place above",
        ) from error


def fetch_command(bundle: Bundle) -> str:
    """The shell command that fetches the weights into the working folder."""
    return f"curl --fail --location --remote-name {_address(bundle)}"


def _forward(model: nn.Module, normalised: bool, masks_padding: bool, device: torch.device) -> Forward:
    def forward(waveforms: Sequence[Tensor]) -> Tensor:
        rows = [nn.functional.layer_norm(row, row.shape) if normalised else row for row in waveforms]
        lens = torch.tensor([row.shape[0] for row in rows], device=device) if masks_padding else None
        logits, _ = model(pad_sequence(rows, batch_first=True).to(device), lens)
        return logits

    return forward
