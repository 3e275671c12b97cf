"""Optimizer step: loss of this process's part of the global batch, gradients (`gradients.py`), rates, update.

All randomness depends on seed, step and process alone. A non-finite step changes nothing; a batch that does not fit
into memory is computed in pieces.

Shapes: B utterances, T frames, V vocabulary.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from asr_kd.errors import TrainingError, examples, is_out_of_memory
from asr_kd.features.augment import spec_augment
from asr_kd.losses import LossTerms, Objective, StudentOutput, Supervision
from asr_kd.losses.base import Pass
from asr_kd.models.acoustic_model import FULL_CONTEXT, AcousticModel, EncoderOutput
from asr_kd.models.layers import FACTOR
from asr_kd.models.settings import Context
from asr_kd.models.weights import Model
from asr_kd.posteriors.types import DensePosteriors, dense_after_blanks, layers_after_zeros, without_lead
from asr_kd.teachers.base import LayeredTeacher, Teacher
from asr_kd.teachers.encoder_ctc import EncoderCtc
from asr_kd.training.batch import Batch
from asr_kd.training.checkpoint import Ema
from asr_kd.training.gradients import Gradients
from asr_kd.training.settings import TrainSettings
from asr_kd.training.training_job import Control, TrainingJob

PIECE_SEED_STEP = 0x9E3779B97F4A7C15
"""Added to a seed for each further piece of a batch; far from the seeds of other steps and processes."""


class StepResult(NamedTuple):
    """Loss of a step per encoder frame of the global batch."""

    loss: float  # NaN when the step was skipped
    parts: dict[str, float]  # the objective's terms, unweighted


class Stepper:
    """Takes optimizer steps; sets `layer_drop` and `random_chunk_offset` of `job.train` on the model.

    Args:
        model: on `control.device`.
        objective: on the same device; its parameters are trained with the model's.
        job: settings, seed and the teacher that runs during training, if any.
        control: device and processes.
        autocast: context of the forward pass (precision).
    """

    def __init__(
        self,
        model: Model | EncoderCtc,
        objective: Objective,
        job: TrainingJob,
        control: Control,
        autocast: Any,
    ) -> None:
        settings = job.train
        self.model, self.objective, self.settings, self.job, self.control = model, objective, settings, job, control
        self.device, self.autocast = control.device, autocast
        model.layer_drop = settings.layer_drop
        if isinstance(model, AcousticModel):
            model.random_chunk_offset = settings.random_chunk_offset
        self.ema = Ema(model, settings.ema.decay) if settings.ema is not None else None
        average = {"ema": self.ema} if self.ema is not None else {}
        self.trained = nn.ModuleDict({"model": model, "objective": objective, **average})
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, objective, settings.weight_decay),
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.names = list(objective.terms)
        self._gradients = Gradients(self.trained.parameters(), control.ranks, 1 + len(self.names))

    @property
    def evaluated_model(self) -> Model | EncoderCtc:
        """Return the model that is evaluated on dev and saved: the moving average where there is one."""
        return self.model if self.ema is None else cast("Model | EncoderCtc", self.ema.module)

    def take(self, batch: Batch, frames: int, step: int, rate: float) -> StepResult:
        """Take step number `step`, counted from 0.

        Args:
            batch: this process's part of the global batch; may be empty.
            frames: encoder frames of the global batch, by which losses are divided.
            step: seeds all randomness of the step, so that a resumed run is bit-exact.
            rate: learning rate before each part's share of it.

        Returns:
            The loss in nats per encoder frame; NaN, without terms, when the step was skipped: not finite, or out of
            memory with single utterances.

        Raises:
            TrainingError: the loss does not depend on any parameter that is trained.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * rate_share(self.model, group["part"], self.settings)
        costs = self._gradients.sum(self._costs(batch, frames, step))
        gradients = self._gradients.parameters
        norm = nn.utils.get_total_norm([parameter.grad for parameter in gradients if parameter.grad is not None])
        # The norm of no gradients at all is on the CPU. One process waits for its GPU here only.
        loss, *parts, length = torch.cat([costs, norm.view(1).to(costs.device)]).tolist()
        if not (math.isfinite(loss) and math.isfinite(length)):
            return StepResult(math.nan, {})
        if length > self.settings.clip_norm:
            nn.utils.clip_grads_with_norm_(gradients, self.settings.clip_norm, norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.model)
        return StepResult(loss, dict(zip(self.names, parts, strict=True)))

    def _costs(self, batch: Batch, frames: int, step: int) -> Tensor:
        """Return loss and terms, [1 + terms], after the backward pass; in pieces when memory is short."""
        pieces = 1
        while True:
            self._gradients.clear()
            costs = torch.zeros(1 + len(self.names), device=self.device)
            try:
                for number, piece in enumerate(batch.pieces(pieces) if batch.ids else []):
                    costs = costs + self._backward(piece, frames, step, number)
                return costs
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise  # otherwise handled below, after the tensors of the attempt are released
            if pieces >= len(batch.ids):
                self._report_skipped(step, batch, "even one by one; the step is skipped")
                return torch.full_like(costs, math.nan)
            pieces *= 2
            self._report_skipped(step, batch, f"the batch is computed in {pieces} pieces")
            torch.cuda.empty_cache()

    def _backward(self, batch: Batch, frames: int, step: int, piece: int) -> Tensor:
        seed = self.job.seed * 1_000_003 + step
        context = self._draw_context(torch.Generator().manual_seed(seed))  # the same for all processes and pieces
        ranks = self.control.ranks
        own = (seed * ranks.count + ranks.rank + piece * PIECE_SEED_STEP) % (1 << 63)
        torch.manual_seed(own)
        lens, longest = batch.feature_lens, int(batch.audio_lens.max())
        batch = batch.to(self.device)
        supervision = self._supervision(batch, longest)
        masks = torch.Generator().manual_seed(own)
        with self.autocast:
            output = self._forward(batch, self._masked(batch.features, lens, masks), context)
            passes = {name: self._pass(name, batch, lens, context, masks) for name in self.objective.needs_passes}
        terms = self._loss(output, passes, supervision, frames)
        if not terms.total.requires_grad:
            raise TrainingError(
                "no parameter that is trained has a part in the loss",
                where=f"training of {self.job.name}, step {step}",
                expected="an objective that trains the output layer, or layers that are not frozen",
                remedy="Set train.frozen_epochs: 0 and train.layers_rate above 0, or add such an objective",
            )
        terms.total.backward()
        return torch.stack([terms.total.detach(), *(terms.parts[name] for name in self.names)])

    def _masked(self, features: Tensor, lens: Tensor, generator: torch.Generator) -> Tensor:
        masks = self.settings.augmentation.spec_augment
        if masks is None or isinstance(self.model, EncoderCtc):
            return features
        return spec_augment(features, lens, self.model.mean, masks, generator)

    def _forward(self, batch: Batch, features: Tensor, context: Context | None) -> EncoderOutput:
        inner, wanted = self.settings.inner_layers, self.objective.needs_layers
        output: EncoderOutput = self.model(features, batch.feature_lens, context, inner, wanted)
        return output

    def _pass(
        self, name: Pass, batch: Batch, lens: Tensor, context: Context | None, masks: torch.Generator
    ) -> StudentOutput:
        """Run a further pass: full context without masks, or in chunks with new masks and dropout."""
        if name == "full_context":
            output = self._forward(batch, batch.features, FULL_CONTEXT)
        else:
            output = self._forward(batch, self._masked(batch.features, lens, masks), context)
        return StudentOutput(output.log_probs, output.lens, output.layers)

    def _loss(
        self, output: EncoderOutput, passes: Mapping[Pass, StudentOutput], supervision: Supervision, frames: int
    ) -> LossTerms:
        """Return the objective on the last layer, mixed with its mean over the inner layers where there are any."""
        student = StudentOutput(output.log_probs, output.lens, output.layers, passes)
        terms = self.objective(student, supervision, frames)
        if not output.inner:
            return terms
        heads = [StudentOutput(log_probs, output.lens) for log_probs in output.inner]
        inner = torch.stack([self.objective.of_inner_head(head, supervision, frames) for head in heads]).mean()
        weight = self.settings.inner_weight
        return terms._replace(total=(1 - weight) * terms.total + weight * inner)

    def _supervision(self, batch: Batch, longest: int) -> Supervision:
        """Return all supervision of a batch; a dense teacher runs on the same audio, without masks and without the
        silence on either side."""
        lead = batch.lead_lens // FACTOR if batch.lead_lens is not None else None
        supervision = Supervision(
            batch.references, batch.targets, batch.hypotheses, {}, batch.arrays, batch.untranscribed, lead
        )
        if self.job.dense_teacher is None:
            return supervision
        targets, layers = self.teacher_output(self.job.dense_teacher, batch, longest)
        if lead is not None:
            targets = dense_after_blanks(targets, lead, self.job.vocabulary.blank_id)
            layers = {number: layers_after_zeros(layer, lead) for number, layer in layers.items()}
        return supervision._replace(targets=targets, teacher_layers=layers)

    def teacher_output(
        self, teacher: Model | Teacher, batch: Batch, longest: int
    ) -> tuple[DensePosteriors, Mapping[int, Tensor]]:
        """Posteriors and the layers that the objective needs, from a model of this project, which runs on features, or
        from another teacher, which runs on waveforms."""
        wanted = self.objective.needs_teacher_layers
        if isinstance(teacher, Model):
            features = batch.features[:, :longest]
            if batch.lead_lens is not None:
                features = without_lead(batch.features, batch.lead_lens, longest)
            with torch.no_grad(), self.autocast:
                output = teacher(features, batch.audio_lens, wanted_layers=wanted)
            return DensePosteriors(output.log_probs, output.lens), output.layers
        if batch.waveforms is None or batch.sample_lens is None:
            raise ValueError("a teacher that runs during training needs waveforms")
        if wanted and isinstance(teacher, LayeredTeacher):
            dense, layers = teacher.with_layers(batch.waveforms, batch.sample_lens, wanted)
        else:
            dense, layers = teacher.log_probs(batch.waveforms, batch.sample_lens), {}
        moved = {number: layer.to(self.device) for number, layer in layers.items()}
        return DensePosteriors(dense.log_probs.to(self.device), dense.lens.cpu()), moved

    def _draw_context(self, generator: torch.Generator) -> Context | None:
        """Draw a context of a dynamic-chunk student; None is the model's own."""
        streaming = self.model.settings.streaming
        if streaming is None or not streaming.train_contexts:
            return None
        return streaming.train_contexts[int(torch.randint(len(streaming.train_contexts), (), generator=generator))]

    def _report_skipped(self, step: int, batch: Batch, then: str) -> None:
        self.control.progress.message(
            f"{self.job.name}: step {step} does not fit into memory (utterances {examples(batch.ids)}): {then}"
        )


UNFROZEN = "unfrozen."
"""Parameters of an encoder teacher's layers, before the layer's number."""


def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float, final_share: float) -> float:
    """Return the rate of step `step` (from 0): linear warm-up, then half a cosine (Loshchilov & Hutter 2017).

    It is peak / warmup_steps at the first step and final_share · peak at the last.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = min((step - warmup_steps) / max(total_steps - 1 - warmup_steps, 1), 1.0)
    return peak * (final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * done)))


def parameter_groups(model: nn.Module, objective: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: weight decay on matrices, none on biases and norms; each part of the model has its own.

    The key "part" of a group is what `rate_share` takes; it is empty for the objective's parameters.
    """
    named = [(_part(model, name), parameter) for name, parameter in model.named_parameters()]
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for part, parameter in [*named, *(("", parameter) for parameter in objective.parameters())]:
        decays = parameter.ndim > 1
        decay = weight_decay if decays else 0.0
        group = groups.setdefault((part, decays), {"params": [], "weight_decay": decay, "part": part})
        group["params"].append(parameter)
    return list(groups.values())


def rate_share(model: nn.Module, part: str, settings: TrainSettings) -> float:
    """Return the learning rate of a part as a share of `settings.learning_rate`; 0 while it is frozen."""
    if isinstance(model, EncoderCtc):
        return model.rate_share(part)
    if part not in ("layers", "adopted"):
        return 1.0
    share = 0.0 if isinstance(model, AcousticModel) and model.frozen else settings.layers_rate
    return share * settings.adopted_rate if part == "adopted" else share


def start_epoch(model: nn.Module, epoch: int, settings: TrainSettings) -> None:
    """Freeze or unfreeze parts of a model as an epoch, counted from 1, requires."""
    if isinstance(model, EncoderCtc):
        model.start_epoch(epoch)
    elif isinstance(model, AcousticModel):
        model.frozen = epoch <= settings.frozen_epochs or settings.layers_rate == 0.0


def _part(model: nn.Module, name: str) -> str:
    if isinstance(model, AcousticModel):
        return model.part_of(name)
    return ".".join(name.split(".")[:2]) if name.startswith(UNFROZEN) else ""
