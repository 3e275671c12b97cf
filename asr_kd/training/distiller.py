"""The training loop: a speechbrain Brain with exact resuming, and with steps that are not finite left out.

What the Brain supplies: loop, mixed precision, devices. What is ours: randomness that depends on the step
alone, checkpoints, the learning rate, and the policy for bad steps and unreadable audio.

Shapes: B utterances, T frames, V vocabulary.
"""

import math
from typing import Any

import speechbrain as sb
import torch
from torch import Tensor, nn

from asr_kd.decoding.greedy import greedy
from asr_kd.errors import StoppedEarly
from asr_kd.features.augment import spec_augment
from asr_kd.files import atomic_path
from asr_kd.losses import LossTerms, Objective
from asr_kd.losses.ctc import ctc_loss
from asr_kd.models.conformer import Conformer, EncoderOutput
from asr_kd.models.settings import Context
from asr_kd.models.weights import write_tensors
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.scoring.wer import score
from asr_kd.training.averaging import best_path, prune_best
from asr_kd.training.checkpoint import TrainingState, load_newest, save_checkpoint
from asr_kd.training.data import Batch
from asr_kd.training.schedule import learning_rate
from asr_kd.training.settings import TrainSettings
from asr_kd.training.surroundings import Surroundings, note_nonfinite, note_unreadable


class Distiller(sb.Brain):
    """Trains `model` on `objective`; `fit_all` is the way in."""

    def __init__(
        self,
        model: Conformer,
        objective: Objective,
        settings: TrainSettings,
        around: Surroundings,
        device: torch.device,
    ) -> None:
        optimizer = torch.optim.AdamW(
            _parameter_groups(model, objective, settings.weight_decay),
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        super().__init__(
            modules={"model": model, "objective": objective},
            run_opts={"device": str(device), "precision": settings.precision, "noprogressbar": True},
        )
        self.settings, self.around = settings, around
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.trained = nn.ModuleDict({"model": model, "objective": objective})
        self.state = TrainingState(around.job)
        self.total_steps = 0
        self._checkpointed_rows = 0

    # -- the run -----------------------------------------------------------------------------------------

    def fit_all(self, train_loader: Any, dev_loader: Any) -> TrainingState:
        """Train to the last epoch, from the newest intact checkpoint if there is one.

        Raises:
            StoppedEarly: asked to stop; the state is saved.
            TrainingError: too many steps that are not finite, or too much unreadable audio.
        """
        around = self.around
        restored = load_newest(around.folder / "checkpoints", self.trained, self.optimizer, around.job, around.progress)
        if restored is not None:
            self.state = restored
            self._checkpointed_rows = len(restored.curve)
            around.progress.message(f"{around.name}: goes on at epoch {restored.epoch}, batch {restored.batch}")
        self.total_steps = self._count_steps()
        self.fit(range(self.state.epoch, self.settings.epochs + 1), train_loader, dev_loader)
        return self.state

    def _count_steps(self) -> int:
        """Batches differ a little between epochs; the schedule takes the first epoch's count for all."""
        self.around.batches.set_epoch(1)
        return len(self.around.batches) * self.settings.epochs

    def init_optimizers(self) -> None:
        """The optimizer is there from the start, because a checkpoint fills it."""

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Plan the epoch, or clear the dev set's hypotheses."""
        if stage == sb.Stage.TRAIN:
            self.around.batches.set_epoch(self.state.epoch)
            self.around.batches.skip = self.state.batch
            self.step = self.state.batch
            self._epoch_batches = len(self.around.batches)
        else:
            self._hypotheses: dict[str, str] = {}
            self._dev_loss, self._dev_frames = 0.0, 0

    def _fit_valid(self, valid_set: Any, epoch: int, enable: bool) -> None:
        every = self.settings.validate_every_epochs
        if epoch % every == 0 or epoch == self.settings.epochs:
            super()._fit_valid(valid_set, epoch, enable)
        else:
            self._end_epoch({})

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """After the dev set: word errors, the epoch's row, and its weights if they are among the best."""
        if stage != sb.Stage.VALID:
            return
        references = {id_: self.around.dev_references[id_] for id_ in self._hypotheses}
        errors = score(references, self._hypotheses, "none")
        self._end_epoch({"dev_wer": errors.wer, "dev_loss": self._dev_loss / max(self._dev_frames, 1)})

    def _end_epoch(self, dev: dict[str, float]) -> None:
        around, state = self.around, self.state
        row = {
            "epoch": state.epoch,
            "step": state.step,
            "train_loss": state.loss_sum / max(self._epoch_batches, 1),
            **dev,
        }
        state.curve.append(row)
        if dev:
            with atomic_path(best_path(around.folder, state.epoch)) as partial:
                write_tensors(partial, {name: tensor.cpu() for name, tensor in self.model.state_dict().items()})
            shown = f"dev WER {100 * dev['dev_wer']:.1f} %, dev loss {dev['dev_loss']:.3f}"
            around.progress.message(
                f"{around.name}: epoch {state.epoch}/{self.settings.epochs}, loss {row['train_loss']:.3f}, {shown}"
            )
        around.log_scalars({key: value for key, value in row.items() if key not in ("epoch", "step")}, state.epoch)
        state.epoch, state.batch, state.loss_sum = state.epoch + 1, 0, 0.0
        if state.epoch > self.settings.epochs:
            self.checkpoint()
        else:
            self._checkpoint_or_stop()

    # -- one step ----------------------------------------------------------------------------------------

    def fit_batch(self, batch: Batch) -> Tensor:
        """One optimizer step; a loss or gradient that is not finite changes nothing and is counted."""
        note_unreadable(self.state, batch, self.around, self.settings.max_bad_share)
        loss = self._step(batch.to(self.device)) if batch.ids else torch.zeros(())
        state, around = self.state, self.around
        state.batch += 1
        state.step += 1
        self.optimizer_step += 1
        if math.isfinite(loss):
            state.loss_sum += float(loss)
            state.nonfinite_row = 0
        else:
            note_nonfinite(self.state, batch, self.around, self.settings.max_nonfinite_steps)
        around.progress.update(
            f"train {around.name}",
            state.step,
            max(self.total_steps, state.step),
            "steps",
            f"epoch {state.epoch} loss {float(loss):.3f}",
        )
        if state.batch < self._epoch_batches:
            self._checkpoint_or_stop()
        return loss

    def _step(self, batch: Batch) -> Tensor:
        # The step's number seeds everything random in it, so a resumed run draws what the first would have.
        seed = self.around.seed * 1_000_003 + self.state.step
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        features = batch.features
        teacher_output = self._dense_targets(batch)
        if self.settings.augmentation.spec_augment is not None:
            features = spec_augment(
                features, batch.feature_lens, self.model.mean, self.settings.augmentation.spec_augment, generator
            )
        with self.training_ctx:
            context = self._draw_context(generator)
            output = self.model(features, batch.feature_lens, context, self.settings.inner_layers)
        terms = self._loss(output, batch, teacher_output)
        loss = terms.total.detach().cpu()
        if not torch.isfinite(loss):
            return loss
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()
        norm = nn.utils.clip_grad_norm_(self.trained.parameters(), self.settings.clip_norm)
        if not torch.isfinite(norm):
            return torch.full((), torch.nan)
        self.optimizer.step()
        if self.state.step % 20 == 0:
            scalars = {name: float(part) for name, part in terms.parts.items()}
            self.around.log_scalars(
                {f"step/{k}": v for k, v in scalars.items()} | {"step/rate": self._rate()}, self.state.step
            )
        return loss

    def _loss(self, output: EncoderOutput, batch: Batch, dense: DensePosteriors | None) -> LossTerms:
        """The objective of the last layer, mixed with the mean of the inner layers' where there are any."""
        outputs = [output.log_probs, *output.inner]
        frames = int(output.lens.sum())
        each = [self.objective(o, output.lens, frames, batch.references, dense or batch.targets) for o in outputs]
        if len(each) == 1:
            return each[0]
        weight = self.settings.inner_weight
        inner = torch.stack([terms.total for terms in each[1:]]).mean()
        return each[0]._replace(total=(1 - weight) * each[0].total + weight * inner)

    def _rate(self) -> float:
        settings = self.settings
        warmup = round(self.total_steps * settings.warmup_epochs / settings.epochs)
        return learning_rate(
            self.state.step, self.total_steps, warmup, settings.learning_rate, settings.final_rate_share
        )

    def _draw_context(self, generator: torch.Generator) -> Context | None:
        """One of the contexts a dynamic-chunk student trains on; None is the model's own."""
        streaming = self.model.settings.streaming
        if streaming is None or not streaming.train_contexts:
            return None
        return streaming.train_contexts[int(torch.randint(len(streaming.train_contexts), (), generator=generator))]

    def _dense_targets(self, batch: Batch) -> DensePosteriors | None:
        """The teacher's posteriors of the same, unmasked audio, when it runs along."""
        if self.around.dense_teacher is None:
            return None
        with torch.no_grad(), self.training_ctx:
            frames = int(batch.audio_lens.max())
            output = self.around.dense_teacher(batch.features[:, :frames], batch.audio_lens)
        return DensePosteriors(output.log_probs, output.lens)

    # -- the dev set -------------------------------------------------------------------------------------

    def evaluate_batch(self, batch: Batch, stage: sb.Stage) -> Tensor:
        """CTC loss per frame and greedy hypotheses of a dev batch."""
        batch = batch.to(self.device)
        if not batch.ids:
            return torch.zeros(())
        with self.training_ctx:
            output: EncoderOutput = self.model(batch.features, batch.feature_lens)
        for id_, tokens in zip(
            batch.ids, greedy(output.log_probs, output.lens, self.around.vocabulary.blank_id), strict=True
        ):
            self._hypotheses[id_] = self.around.vocabulary.decode(tokens)
        loss = ctc_loss(output.log_probs, output.lens, batch.references, self.around.vocabulary.blank_id)
        self._dev_loss += float(loss)
        self._dev_frames += int(output.lens.sum())
        return loss.cpu() / output.lens.sum().cpu()

    # -- trouble and stopping ----------------------------------------------------------------------------

    def _checkpoint_or_stop(self) -> None:
        reason = self.around.should_stop()
        if reason is not None or self.around.should_checkpoint():
            self.checkpoint()
        if reason is not None:
            raise StoppedEarly(
                f"training of {self.around.name} stopped ({reason}) at epoch {self.state.epoch}, "
                f"step {self.state.step}; its state is saved",
                remedy="Run the same command again to go on",
            )

    def checkpoint(self) -> None:
        """Save where the run stands, and drop epochs that are no longer among the best."""
        save_checkpoint(self.around.folder / "checkpoints", self.trained, self.optimizer, self.state)
        # An older checkpoint may still be the one to come back to: what was best then stays as well.
        prune_best(self.around.folder, self.state.curve, self._checkpointed_rows, self.settings.average_best)
        self._checkpointed_rows = len(self.state.curve)


def _parameter_groups(model: nn.Module, objective: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms do not."""
    parameters = [p for module in (model, objective) for p in module.parameters()]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
