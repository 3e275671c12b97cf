"""One optimizer step: our share of a global batch, its loss, everyone's gradients, the new weights.

All randomness depends on seed, step and process alone. A step that is not finite changes nothing; a batch that does
not fit into memory is computed in pieces.

Shapes: B utterances, T frames, V vocabulary.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from asr_kd.features.augment import spec_augment
from asr_kd.losses import LossTerms, Objective, StudentOutput, Supervision
from asr_kd.losses.base import Pass
from asr_kd.models.conformer import FULL_CONTEXT, Conformer, EncoderOutput
from asr_kd.models.settings import Context
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.teachers.encoder_ctc import EncoderCtc
from asr_kd.training.data import Batch
from asr_kd.training.ema import Ema
from asr_kd.training.gradients import Gradients
from asr_kd.training.memory import keep_freed_memory
from asr_kd.training.settings import TrainSettings
from asr_kd.training.training_context import TrainingContext

ANOTHER_STREAM = 0x9E3779B97F4A7C15
"""Added to a seed: far from those of all other steps and processes."""


class StepResult(NamedTuple):
    """What a step cost, a student frame of the global batch."""

    loss: float  # NaN when the step was left out
    parts: dict[str, float]  # the objective's terms, unweighted


class Stepper:
    """Takes optimizer steps.

    Args:
        model, objective: what is trained; the model in training mode drops layers as `settings` say.
        settings: how.
        around: the run's surroundings.
        device: where the weights are.
        autocast: the context of mixed precision.
    """

    def __init__(
        self,
        model: Conformer | EncoderCtc,
        objective: Objective,
        settings: TrainSettings,
        around: TrainingContext,
        device: torch.device,
        autocast: Any,
    ) -> None:
        self.model, self.objective, self.settings, self.around = model, objective, settings, around
        self.device, self.autocast = device, autocast
        model.layer_drop = settings.layer_drop
        self.ema = Ema(model, settings.ema.decay) if settings.ema is not None else None
        followed = {"ema": self.ema} if self.ema is not None else {}
        self.trained = nn.ModuleDict({"model": model, "objective": objective, **followed})
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(model, objective, settings.weight_decay),
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        if device.type == "cpu":
            keep_freed_memory()
        self.names = list(objective.terms)
        self._gradients = Gradients(self.trained.parameters(), around.ranks, 1 + len(self.names))

    @property
    def kept(self) -> Conformer | EncoderCtc:
        """The weights that are judged on dev and kept: the moving average's where there is one."""
        return self.model if self.ema is None else cast("Conformer | EncoderCtc", self.ema.module)

    def take(self, batch: Batch, frames: int, step: int, rate: float) -> StepResult:
        """Step number `step`, counted from 0.

        Args:
            batch: our share of the global batch; maybe nothing.
            frames: student frames of the global batch, by which losses are divided.
            step: seeds everything random in it, so that a resumed run draws what the first would have.
            rate: the learning rate.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self._rate_share(group["parameter"])
        costs = self._gradients.sum(self._costs(batch, frames, step))
        gradients = self._gradients.parameters
        norm = nn.utils.get_total_norm([parameter.grad for parameter in gradients if parameter.grad is not None])
        loss, *parts, length = torch.cat([costs, norm.view(1)]).tolist()  # a GPU is waited for here and nowhere else
        if not (math.isfinite(loss) and math.isfinite(length)):
            return StepResult(math.nan, {})
        if length > self.settings.clip_norm:
            nn.utils.clip_grads_with_norm_(gradients, self.settings.clip_norm, norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.follow(self.model)
        return StepResult(loss, dict(zip(self.names, parts, strict=True)))

    def _rate_share(self, parameter: str) -> float:
        return self.model.rate_share(parameter) if isinstance(self.model, EncoderCtc) else 1.0

    def _costs(self, batch: Batch, frames: int, step: int) -> Tensor:
        """Loss and terms of our share, [1 + terms]; their gradients are in place. In pieces when memory is short."""
        pieces = 1
        while True:
            self._gradients.clear()
            costs = torch.zeros(1 + len(self.names), device=self.device)
            try:
                for number, piece in enumerate(batch.pieces(pieces) if batch.ids else []):
                    costs = costs + self._backward(piece, frames, step, number)
                return costs
            except torch.OutOfMemoryError:
                pass  # dealt with below, where nothing holds on to what the attempt has made
            if pieces >= len(batch.ids):
                self._report_skipped(step, batch, "even one by one; the step is left out")
                return torch.full_like(costs, math.nan)
            pieces *= 2
            self._report_skipped(step, batch, f"the batch is computed in {pieces} pieces")
            torch.cuda.empty_cache()

    def _backward(self, batch: Batch, frames: int, step: int, piece: int) -> Tensor:
        seed = self.around.seed * 1_000_003 + step
        context = self._draw_context(torch.Generator().manual_seed(seed))  # the same for all processes and pieces
        ranks = self.around.ranks
        own = (seed * ranks.count + ranks.rank + piece * ANOTHER_STREAM) % (1 << 63)
        torch.manual_seed(own)
        lens, longest = batch.feature_lens, int(batch.audio_lens.max())
        batch = batch.to(self.device)
        supervision = self._supervision(batch, longest)
        masks = torch.Generator().manual_seed(own)
        with self.autocast:
            output = self._forward(batch, self._masked(batch.features, lens, masks), context)
            passes = {name: self._pass(name, batch, lens, context, masks) for name in self.objective.needs_passes}
        terms = self._loss(output, passes, supervision, frames)
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
        """A further pass: the whole utterance unmasked, or in chunks with other masks and other dropout."""
        if name == "full_context":
            output = self._forward(batch, batch.features, FULL_CONTEXT)
        else:
            output = self._forward(batch, self._masked(batch.features, lens, masks), context)
        return StudentOutput(output.log_probs, output.lens, output.layers)

    def _loss(
        self, output: EncoderOutput, passes: Mapping[Pass, StudentOutput], supervision: Supervision, frames: int
    ) -> LossTerms:
        """The objective of the last layer, mixed with the mean of the inner layers' where there are any."""
        student = StudentOutput(output.log_probs, output.lens, output.layers, passes)
        terms = self.objective(student, supervision, frames)
        if not output.inner:
            return terms
        heads = [StudentOutput(log_probs, output.lens) for log_probs in output.inner]
        inner = torch.stack([self.objective.of_inner_head(head, supervision, frames) for head in heads]).mean()
        weight = self.settings.inner_weight
        return terms._replace(total=(1 - weight) * terms.total + weight * inner)

    def _supervision(self, batch: Batch, longest: int) -> Supervision:
        """All that the batch can teach; a teacher that runs along hears the same, unmasked audio."""
        known = Supervision(batch.references, batch.targets, batch.hypotheses, {}, batch.arrays, batch.untranscribed)
        if self.around.dense_teacher is None:
            return known
        with torch.no_grad(), self.autocast:
            output = self.around.dense_teacher(
                batch.features[:, :longest], batch.audio_lens, wanted_layers=self.objective.needs_teacher_layers
            )
        return known._replace(targets=DensePosteriors(output.log_probs, output.lens), teacher_layers=output.layers)

    def _draw_context(self, generator: torch.Generator) -> Context | None:
        """One of the contexts a dynamic-chunk student trains on; None is the model's own."""
        streaming = self.model.settings.streaming
        if streaming is None or not streaming.train_contexts:
            return None
        return streaming.train_contexts[int(torch.randint(len(streaming.train_contexts), (), generator=generator))]

    def _report_skipped(self, step: int, batch: Batch, then: str) -> None:
        named = ", ".join(batch.ids[:5]) + (" …" if len(batch.ids) > 5 else "")
        self.around.own_progress.message(
            f"{self.around.name}: step {step} does not fit into the GPU's memory (utterances {named}): {then}"
        )


def _parameter_groups(model: nn.Module, objective: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms do not. Each unfrozen layer of an `EncoderCtc` has groups of its own."""
    named = [*model.named_parameters(), *(("", parameter) for parameter in objective.parameters())]
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in named:
        layer = ".".join(name.split(".")[:2]) if name.startswith("unfrozen.") else ""
        for decays in (True, False):
            decay = weight_decay if decays else 0.0
            group = groups.setdefault((layer, decays), {"params": [], "weight_decay": decay, "parameter": layer})
            if decays == (parameter.ndim > 1):
                group["params"].append(parameter)
    return [group for group in groups.values() if group["params"] or not group["parameter"]]
