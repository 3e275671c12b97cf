"""The training loop: a speechbrain Brain with exact resuming, on one process or several.

What the Brain supplies: loop, mixed precision, devices. What is ours: steps whose randomness depends on their number
alone, checkpoints, the learning rate, the policy for bad steps and unreadable audio, and how processes share the work:
gradients are summed by `Gradients`, not by the Brain's wrapper, which cannot divide by the global batch's frames.
"""

import math
from typing import Any

import speechbrain as sb
import torch
from torch import Tensor

from asr_kd.errors import StoppedEarly, TrainingError
from asr_kd.files import atomic_path
from asr_kd.losses import Objective
from asr_kd.models.conformer import Conformer, EncoderOutput
from asr_kd.models.weights import write_tensors
from asr_kd.teachers.encoder_ctc import EncoderCtc
from asr_kd.training.averaging import best_path, prune_best
from asr_kd.training.batch_sync import GlobalBatch, sync_batch
from asr_kd.training.checkpoint import TrainingState, load_newest, save_checkpoint
from asr_kd.training.data import Batch
from asr_kd.training.dev import DevScores
from asr_kd.training.schedule import learning_rate
from asr_kd.training.settings import TrainSettings
from asr_kd.training.step import Stepper
from asr_kd.training.training_context import TrainingContext, note_nonfinite, note_unreadable


class Distiller(sb.Brain):
    """Trains `model` on `objective`; `fit_all` is the way in."""

    def __init__(
        self,
        model: Conformer | EncoderCtc,
        objective: Objective,
        settings: TrainSettings,
        around: TrainingContext,
        device: torch.device,
    ) -> None:
        super().__init__(
            modules={"model": model, "objective": objective},
            run_opts={"device": str(device), "precision": settings.precision, "noprogressbar": True},
        )
        self.settings, self.around = settings, around
        self.model = model
        self.stepper = Stepper(model, objective, settings, around, device, self.training_ctx)
        self.dev = DevScores(around.dev_references, around.vocabulary, around.ranks)
        self.state = TrainingState(around.job)
        self.total_steps = 0
        self._checkpointed_rows = 0
        self._stop: str | None = None
        self._unreadable_dev: set[str] = set()

    # -- the run -----------------------------------------------------------------------------------------

    def fit_all(self, train_loader: Any, dev_loader: Any) -> TrainingState:
        """Train to the last epoch, from the newest intact checkpoint if there is one.

        Raises:
            StoppedEarly: asked to stop; the state is saved.
            TrainingError: too many steps that are not finite, or too much unreadable audio; or the processes do not
                see the same files.
        """
        around = self.around
        folder = around.folder / "checkpoints"
        around.ranks.barrier()  # nobody looks before an earlier unit's files are all there
        restored = load_newest(folder, self.stepper.trained, self.stepper.optimizer, around.job, around.progress)
        steps = around.ranks.gather(restored.step if restored is not None else 0)
        if len(set(steps)) > 1:
            raise TrainingError(
                f"the processes go on from different steps ({', '.join(map(str, steps))})",
                where=folder,
                expected="one folder that all of them see",
                remedy="Put work_dir on storage that the machines share",
            )
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

    def _wrap_distributed(self) -> None:
        """Nothing: gradients are summed by the step."""

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Plan the epoch, or clear the dev set's hypotheses."""
        if stage == sb.Stage.TRAIN:
            self.around.batches.set_epoch(self.state.epoch)
            for model in (self.model, self.stepper.kept):
                if isinstance(model, EncoderCtc):
                    model.start_epoch(self.state.epoch)
            self.around.batches.skip = self.state.batch
            self.step = self.state.batch
            self._epoch_batches = len(self.around.batches)
        else:
            self.dev.clear()

    def _fit_valid(self, valid_set: Any, epoch: int, enable: bool) -> None:
        every = self.settings.validate_every_epochs
        if epoch % every == 0 or epoch == self.settings.epochs:
            super()._fit_valid(valid_set, epoch, enable)
        else:
            self._end_epoch({})

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """After the dev set: word errors, the epoch's row, and its weights if they are among the best."""
        if stage == sb.Stage.VALID:
            self._end_epoch(self.dev.row())

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
            if around.ranks.first:
                with atomic_path(best_path(around.folder, state.epoch)) as partial:
                    weights = self.stepper.kept.state_dict()
                    write_tensors(partial, {name: tensor.cpu() for name, tensor in weights.items()})
            shown = f"dev WER {100 * dev['dev_wer']:.1f} %, dev loss {dev['dev_loss']:.3f}"
            around.progress.message(
                f"{around.name}: epoch {state.epoch}/{self.settings.epochs}, loss {row['train_loss']:.3f}, {shown}"
            )
        around.log_scalars({key: value for key, value in row.items() if key not in ("epoch", "step")}, state.epoch)
        state.epoch, state.batch, state.loss_sum = state.epoch + 1, 0, 0.0
        if state.epoch <= self.settings.epochs:
            self._checkpoint_or_stop()
        elif around.ranks.first:
            self.checkpoint()

    # -- one step ----------------------------------------------------------------------------------------

    def fit_batch(self, batch: Batch) -> Tensor:
        """One optimizer step; a loss or gradient that is not finite changes nothing and is counted."""
        state, around = self.state, self.around
        agreed = sync_batch(batch, around.should_stop(), around.ranks)
        self._stop = agreed.stop
        note_unreadable(state, agreed.unreadable, around, self.settings.max_bad_share)
        loss = self._step(batch, agreed) if agreed.utterances else 0.0
        state.batch += 1
        state.step += 1
        self.optimizer_step += 1
        if math.isfinite(loss):
            state.loss_sum += loss
            state.nonfinite_row = 0
        else:
            ids = [id_ for theirs in around.ranks.gather(batch.ids) for id_ in theirs]
            note_nonfinite(state, ids, around, self.settings.max_nonfinite_steps)
        around.progress.update(
            f"train {around.name}",
            state.step,
            max(self.total_steps, state.step),
            "steps",
            f"epoch {state.epoch} loss {loss:.3f}",
        )
        if state.batch < self._epoch_batches:
            self._checkpoint_or_stop()
        return torch.tensor(loss)

    def _step(self, batch: Batch, agreed: GlobalBatch) -> float:
        step, rate = self.state.step, self._rate()
        self.stepper.objective.weigh(step, self.total_steps)
        loss, parts = self.stepper.take(batch, agreed.frames, step, rate)
        if parts and step % 20 == 0:
            self.around.log_scalars({f"step/{name}": part for name, part in parts.items()} | {"step/rate": rate}, step)
        return loss

    def _rate(self) -> float:
        settings = self.settings
        warmup = round(self.total_steps * settings.warmup_epochs / settings.epochs)
        return learning_rate(
            self.state.step, self.total_steps, warmup, settings.learning_rate, settings.final_rate_share
        )

    # -- the dev set -------------------------------------------------------------------------------------

    def evaluate_batch(self, batch: Batch, stage: sb.Stage) -> Tensor:
        """CTC loss per frame and greedy hypotheses of a dev batch."""
        for item in batch.unreadable:
            if item.id not in self._unreadable_dev:
                self._unreadable_dev.add(item.id)
                self.around.own_progress.message(f"{self.around.name}: dev set without {item.id}: {item.reason}")
        if not batch.ids:
            return torch.zeros(())
        batch = batch.to(self.device)
        with self.training_ctx:
            output: EncoderOutput = self.stepper.kept(batch.features, batch.feature_lens)
        return self.dev.add(batch.ids, output.log_probs, output.lens, batch.references)

    # -- stopping ----------------------------------------------------------------------------------------

    def _checkpoint_or_stop(self) -> None:
        around, reason = self.around, self._stop
        if around.ranks.first and (reason is not None or around.should_checkpoint()):
            self.checkpoint()
        if reason is not None:
            around.ranks.barrier()  # nobody leaves before the state is saved: torchrun ends the others then
            raise StoppedEarly(
                f"training of {around.name} stopped ({reason}) at epoch {self.state.epoch}, "
                f"step {self.state.step}; its state is saved",
                remedy="Run the same command again to go on",
            )

    def checkpoint(self) -> None:
        """Save where the run stands, and drop epochs that are no longer among the best; on the first process."""
        stepper = self.stepper
        save_checkpoint(self.around.folder / "checkpoints", stepper.trained, stepper.optimizer, self.state)
        # An older checkpoint may still be the one to come back to: what was best then stays as well.
        prune_best(self.around.folder, self.state.curve, self._checkpointed_rows, self.settings.average_best)
        self._checkpointed_rows = len(self.state.curve)
