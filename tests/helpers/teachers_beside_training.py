"""A teacher that runs beside its student, and whose output or memory fails where a test asks for it."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from asr_kd.features.augment import Augmentation
from asr_kd.features.fbank import num_frames
from asr_kd.losses import DistillSettings
from asr_kd.models.acoustic_model import EncoderOutput
from asr_kd.models.layers import output_lens
from asr_kd.posteriors import DensePosteriors
from tests.helpers.fake_teacher import SAMPLES_A_FRAME, FakeTeacher
from tests.helpers.jobs import WORDS

Failure = Literal["memory", "loss", "gradient"]
UNCHANGED = Augmentation(speeds=(1.0,), silence_share=0.0, gain_share=0.0, ramp_share=0.0, spec_augment=None)
"""Every utterance as it is."""
BESIDE = DistillSettings(kd_weight=0.5, targets="dense", objectives={"frame_kl": {"selection": "all"}})


class TeacherBesideTraining(FakeTeacher):
    """Posteriors of the vocabulary of `jobs.job_on`, and two layers of width 6.

    Attributes:
        fails: from the lengths of a batch in samples [B] to what fails: memory (the call itself), the loss (NaN), its
            gradient (infinite, within `infinite_gradients`), or nothing.
    """

    num_layers, width = 2, 6

    def __init__(self, fails: Callable[[Tensor], Failure | None] = lambda sample_lens: None) -> None:
        super().__init__(letters="".join(sorted(set("".join(WORDS)))))
        self.fails = fails
        self.spoils_gradient = False  # of the pass that comes next

    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        failure = self.fails(sample_lens)
        if failure == "memory":
            raise torch.OutOfMemoryError
        log_probs, lens = super().log_probs(waveforms, sample_lens)
        lens = torch.minimum(lens, output_lens(torch.tensor([num_frames(int(count)) for count in sample_lens])))
        self.spoils_gradient = failure == "gradient"
        if failure == "loss":
            log_probs = torch.full_like(log_probs, math.nan)
        return DensePosteriors(log_probs, lens)

    def with_layers(
        self, waveforms: Tensor, sample_lens: Tensor, layers: Sequence[int]
    ) -> tuple[DensePosteriors, Mapping[int, Tensor]]:
        dense = self.log_probs(waveforms, sample_lens)
        frames = waveforms[:, : dense.log_probs.shape[1] * SAMPLES_A_FRAME].unfold(1, SAMPLES_A_FRAME, SAMPLES_A_FRAME)
        return dense, {number: 10 * frames[..., number : number + self.width] for number in layers}


@contextlib.contextmanager
def infinite_gradients(teacher: TeacherBesideTraining) -> Iterator[None]:
    """Make the gradient of a student's output infinite where `teacher.fails` says "gradient"."""

    def spoil(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, EncoderOutput) and teacher.spoils_gradient:
            output.log_probs.register_hook(lambda gradient: gradient * math.inf)
            teacher.spoils_gradient = False

    handle = register_module_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()
