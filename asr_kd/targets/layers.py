"""A teacher's hidden layers beside its posteriors: heard, packed to 8 bits a channel, and what they cost.

Only teachers of this project's own have layers to give. Knows the teachers' protocol, not what layers are used for.

Shapes: B utterances, S samples, T frames, D' width of the teacher.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr_kd.errors import TargetsError
from asr_kd.posteriors import DensePosteriors
from asr_kd.posteriors.hidden import array_names, dequantise, quantise
from asr_kd.targets.shard import Array
from asr_kd.targets.store import Store
from asr_kd.teachers.base import LayeredTeacher, Teacher


def layered(teacher: Teacher, layers: Sequence[int]) -> LayeredTeacher:
    """The teacher as one that has these layers.

    Raises:
        TargetsError: it is not of this project's own, or has fewer.
    """
    if not isinstance(teacher, LayeredTeacher):
        raise TargetsError(
            f"the teacher {teacher.name!r} does not show its hidden layers",
            where="targets.layers",
            expected="a teacher that was trained by this project, in its students' vocabulary",
            remedy="Leave targets.layers and the objective `representation` out, or train a teacher here",
        )
    unknown = [layer for layer in layers if not 1 <= layer <= teacher.num_layers]
    if unknown:
        raise TargetsError(
            f"the teacher {teacher.name!r} has no layer {unknown[0]}",
            where="targets.layers",
            expected=f"1 to {teacher.num_layers}",
        )
    return teacher


def layer_widths(teacher: Teacher, layers: Sequence[int]) -> dict[int, int]:
    """Each of these layers with its width.

    Raises:
        TargetsError: the teacher does not have them.
    """
    return dict.fromkeys(layers, layered(teacher, layers).width) if layers else {}


def hear(
    teacher: Teacher, waveforms: Sequence[Tensor], layers: Sequence[int] = ()
) -> tuple[DensePosteriors, Mapping[int, Tensor]]:
    """The teacher's posteriors of waveforms [S] each, and the outputs of its layers, [B, T, D'] each.

    Raises:
        TargetsError: the teacher does not have these layers.
    """
    lens = torch.tensor([waveform.shape[0] for waveform in waveforms])
    padded = pad_sequence(list(waveforms), batch_first=True)
    if not layers:
        return teacher.log_probs(padded, lens), {}
    return layered(teacher, layers).with_layers(padded, lens, layers)


def layer_arrays(layers: Mapping[int, Tensor], row: int, num_frames: int) -> dict[str, Array]:
    """What is stored of one utterance's layers [B, T, D'], by the arrays' names."""
    arrays: dict[str, Array] = {}
    for layer, hidden in layers.items():
        codes, scale = quantise(hidden[row, :num_frames])
        arrays |= dict(zip(array_names(layer), (codes.cpu().numpy(), scale.cpu().numpy()), strict=True))
    return arrays


def read_layer(store: Store, layer: int, utterance_id: str, variant: str = "speed-1.0") -> Tensor:
    """A stored layer of an utterance, [T, D'] float32.

    Raises:
        TargetsError: it is not stored.
    """
    codes, scale = (
        torch.from_numpy(store.read_array(name, utterance_id, variant).copy()) for name in array_names(layer)
    )
    return dequantise(codes, scale)
