"""Fidelity of a store: what packing lost of the teacher's posteriors, measured on a sample."""

from collections.abc import Mapping, Sequence

import torch

from asr_kd.config import Settings
from asr_kd.corpora.manifest import Utterance, even_sample
from asr_kd.corpora.recordings import read_utterance
from asr_kd.features.augment import speed_perturb
from asr_kd.files import parse_json
from asr_kd.posteriors import SoftTargets
from asr_kd.posteriors.measures import argmax_agreement, entropy, partition_log_probs, tail_divergence
from asr_kd.posteriors.types import map_tensors
from asr_kd.targets.settings import TargetSettings, variant_name
from asr_kd.targets.sharded_extraction import batches_by_teacher
from asr_kd.targets.storage import Storage
from asr_kd.targets.store import Store
from asr_kd.targets.stored_arrays import read_layer, run_teacher
from asr_kd.teachers.base import Teacher

FIDELITY = "fidelity.json"


class Fidelity(Settings):
    """Shares and means over frames; divergences and entropy in nats."""

    bytes_per_frame: float
    """Over the whole store."""
    entries_per_frame: float
    """Over the whole store; a collapsed blank counts as one."""
    certain_share: float
    """Frames inside runs of certain blanks, over the whole store."""
    sampled_utterances: int
    sampled_frames: int
    kl: float
    """KL(teacher ‖ stored) over the stored entries and the tail: what rounding and collapsing cost."""
    tail_divergence: float
    """Divergence inside the tail: KL of the teacher's tail to a flat one of the same mass."""
    argmax_agreement: float
    teacher_entropy: float
    blank_share: float
    """Frames where the teacher's most probable token is the blank."""
    layer_error: float | None = None
    """Of hidden layers, where they are stored: norm of the rounding error by norm of the layers."""


def read_fidelity(storage: Storage) -> Fidelity | None:
    """Read the report beside a store; None where it has not been measured, or the file is damaged."""
    try:
        return Fidelity.model_validate(parse_json(storage.read(FIDELITY)))
    except (FileNotFoundError, ValueError):
        return None


def fidelity_lines(kept: Fidelity | None) -> list[str]:
    """Return what was lost in a line; nothing where it was not measured."""
    if kept is None:
        return []
    layers = "" if kept.layer_error is None else f"; rounding changed layers by {100 * kept.layer_error:.2f} %"
    return [
        f"kept: {kept.entries_per_frame:.2f} entries a frame, KL {kept.kl:.4f} + {kept.tail_divergence:.4f} nats in "
        f"the tail, argmax agreement {100 * kept.argmax_agreement:.2f} %; teacher: entropy {kept.teacher_entropy:.3f} "
        f"nats, blank on {100 * kept.blank_share:.0f} % of frames ({kept.sampled_utterances} utterances){layers}"
    ]


def measure_fidelity(
    teacher: Teacher, store: Store, utterances: Sequence[Utterance], settings: TargetSettings
) -> Fidelity:
    """Compare the store with the teacher on an even sample of its utterances, unperturbed where that is stored."""
    speed = 1.0 if 1.0 in settings.speeds else settings.speeds[0]
    stored = [utterance for utterance in sorted(utterances, key=lambda item: item.id) if utterance.id in store]
    sample = even_sample(stored, settings.fidelity_utterances)
    sums, layers = torch.zeros(6, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for assigned, batch in batches_by_teacher(teacher, sample, settings.batch_seconds):
        waveforms = [speed_perturb(read_utterance(utterance), speed) for utterance in batch]
        dense, hidden = run_teacher(assigned, waveforms, settings.layers, [utterance.id for utterance in batch])
        for index, utterance in enumerate(batch):
            kept = store.read(utterance.id, variant_name(speed), int(dense.lens[index]))
            sums += compare(dense.log_probs[index, : int(dense.lens[index])].cpu(), kept, teacher.vocabulary.blank_id)
            states = {layer: batch_states[index] for layer, batch_states in hidden.items()}
            layers += compare_layers(store, utterance.id, variant_name(speed), states)
    means = (sums / sums[0].clamp_min(1)).tolist()
    return Fidelity(
        bytes_per_frame=store.info.bytes_per_frame,
        entries_per_frame=store.info.entries_per_frame,
        certain_share=store.info.certain_share,
        sampled_utterances=len(sample),
        sampled_frames=int(sums[0]),
        kl=means[1],
        tail_divergence=means[2],
        argmax_agreement=means[3],
        teacher_entropy=means[4],
        blank_share=means[5],
        layer_error=float((layers[0] / layers[1].clamp_min(1e-30)).sqrt()) if settings.layers else None,
    )


def compare(log_probs: torch.Tensor, stored: SoftTargets, blank_id: int) -> torch.Tensor:
    """Compare a stored utterance with its dense posteriors.

    Args:
        log_probs: the teacher's, [T, V].
        stored: the same frames, read from a store.
        blank_id: index of the blank.

    Returns:
        [6] float64: frames, and sums over them of the KL over the stored partition, of the divergence inside the tail,
        of argmax agreement, of the teacher's entropy and of its blanks.
    """
    teacher = log_probs.unsqueeze(0)
    kept = map_tensors(stored, lambda part: part.unsqueeze(0))
    kept_log, tail_log = partition_log_probs(teacher, kept)
    kept_terms = (kept_log.exp() * (kept_log - kept.probs.log())).masked_fill(kept.probs == 0, 0.0).sum(-1)
    tail_terms = tail_log.exp() * (tail_log - kept.tail.clamp_min(1e-7).log())
    measures = [
        torch.ones_like(tail_log),
        (kept_terms + tail_terms).clamp_min(0.0),
        tail_divergence(teacher, kept),
        argmax_agreement(teacher, kept),
        entropy(teacher),
        teacher.argmax(-1) == blank_id,
    ]
    return torch.stack([measure.double().sum() for measure in measures])


def compare_layers(store: Store, utterance_id: str, variant: str, hidden: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Squared lengths of what rounding changed in a stored utterance's layers [T, D'] each, and of all, [2] float64."""
    squares = torch.zeros(2, dtype=torch.float64)
    for layer, states in hidden.items():
        stored = read_layer(store, layer, utterance_id, variant)
        original = states[: len(stored)].double().cpu()
        squares += torch.stack([(stored - original).square().sum(), original.square().sum()])
    return squares
