"""Training loop: a speechbrain Brain with bit-exact resuming, in one process or several.

The Brain supplies the loop, mixed precision and devices. This class adds steps whose randomness depends on their
number alone, checkpoints, the learning rate, and the handling of non-finite steps and unreadable audio. Gradients are
summed by `Gradients` (gradients.py): DDP averages over processes and cannot divide by the frames of the global batch.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from asr_kd.errors import StoppedEarly, TrainingError, examples
from asr_kd.files import atomic_path
from asr_kd.losses import Objective
from asr_kd.models.acoustic_model import EncoderOutput
from asr_kd.models.weights import Model, write_tensors
from asr_kd.teachers.encoder_ctc import EncoderCtc
from asr_kd.training.batch import Batch, GlobalBatch, Unreadable, sync_batch
from asr_kd.training.batch_sampler import DurationBatchSampler
from asr_kd.training.checkpoint import TrainingState, best_path, load_newest, prune_best, save_checkpoint
from asr_kd.training.dev_scores import DevScores
from asr_kd.training.step import Stepper, learning_rate, start_epoch
from asr_kd.training.training_job import Control, TrainingJob


class Distiller(sb.Brain):
    """Trains `model` on `objective`; call `fit_all`.

    Args:
        model: on `control.device`, with its first weights.
        objective: on the same device.
        job: settings, utterances and targets.
        folder: for checkpoints/, best/ and tensorboard/.
        control: device, progress, stop request and processes.
    """

    def __init__(
        self,
        model: Model | EncoderCtc,
        objective: Objective,
        job: TrainingJob,
        folder: Path,
        control: Control,
    ) -> None:
        super().__init__(
            modules={"model": model, "objective": objective},
            run_opts={"device": str(control.device), "precision": job.train.precision, "noprogressbar": True},
        )
        self.job, self.settings, self.folder, self.control = job, job.train, folder, control
        self.model = model
        self.stepper = Stepper(model, objective, job, control, self.training_ctx)
        self.state = TrainingState(job.key)
        self.trains_head = job.distill is None or job.distill.trains_head  # without it there is no dev WER
        self.writer = SummaryWriter(str(folder / "tensorboard")) if control.ranks.first else None
        self.total_steps = 0
        self._checkpointed_at = time.monotonic()
        self._checkpointed_rows = 0
        self._stop: str | None = None
        self._unreadable_dev: set[str] = set()

    # -- epochs -----------------------------------------------------------------------------------------

    def fit_all(
        self,
        train_loader: DataLoader[Any],
        dev_loader: DataLoader[Any],
        batches: DurationBatchSampler,
        dev_references: dict[str, str],
    ) -> TrainingState:
        """Train to the last epoch, from the newest intact checkpoint if there is one; with `epochs: 0` only score the
        first weights on the dev set.

        Args:
            batches: the sampler of `train_loader`.
            dev_references: dev transcripts by utterance id, normalized.

        Raises:
            StoppedEarly: `should_stop` returned a reason; the state is saved.
            TrainingError: too many steps that are not finite, or too much unreadable audio; or the processes do not
                see the same files.
        """
        folder, ranks, progress = self.folder / "checkpoints", self.control.ranks, self.control.run_progress
        self.batches, self.dev = batches, DevScores(dev_references, self.job.vocabulary, ranks)
        ranks.barrier()  # the files of an earlier stage are complete
        restored = load_newest(folder, self.stepper.trained, self.stepper.optimizer, self.job.key, progress)
        steps = ranks.gather(restored.step if restored is not None else 0)
        if len(set(steps)) > 1:
            raise TrainingError(
                f"the processes resume from different steps ({', '.join(map(str, steps))})",
                where=folder,
                expected="one folder that all of them see",
                remedy="Put work_dir on storage that the machines share",
            )
        if restored is not None:
            self.state = restored
            self._checkpointed_rows = len(restored.curve)
            progress.message(f"{self.job.name}: resumes at epoch {restored.epoch}, batch {restored.batch}")
        if self.settings.epochs == 0:
            self._score_first_weights(dev_loader)
            return self.state
        # Batches differ a little between epochs; the schedule takes an estimate from two of them.
        self.total_steps = batches.count_all(self.settings.epochs)
        self.fit(range(self.state.epoch, self.settings.epochs + 1), train_loader, dev_loader)
        return self.state

    def _score_first_weights(self, dev_loader: DataLoader[Any]) -> None:
        """Make the first weights those of epoch 0, the only one."""
        if not self.state.curve:
            self.state.epoch = 0
            self._fit_valid(dev_loader, epoch=0, enable=False)

    def init_optimizers(self) -> None:
        """Do nothing: `Stepper` creates the optimizer before a checkpoint is restored into it."""

    def _wrap_distributed(self) -> None:
        """Do nothing: `Gradients` sums the gradients."""

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Compose the batches of the epoch, or clear the dev hypotheses."""
        if stage == sb.Stage.TRAIN:
            self.batches.set_epoch(self.state.epoch)
            for model in (self.model, self.stepper.evaluated_model):
                start_epoch(model, self.state.epoch, self.settings)
            self.batches.skip = self.state.batch
            self.step = self.state.batch
            self._epoch_batches = len(self.batches)
        else:
            self.dev.clear()

    def _fit_valid(self, valid_set: Any, epoch: int, enable: bool) -> None:
        every = self.settings.validate_every_epochs
        is_evaluated = epoch % every == 0 or epoch == self.settings.epochs
        if is_evaluated and self.trains_head:
            super()._fit_valid(valid_set, epoch, enable)
        else:
            self._end_epoch({}, keep=is_evaluated)

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Finish an epoch with the dev scores."""
        if stage == sb.Stage.VALID:
            self._end_epoch(self.dev.row(), keep=True)

    def _end_epoch(self, dev: dict[str, float], keep: bool) -> None:
        """Add a row to the curve; keep the weights of epochs that may be averaged.

        Where the output layer is not trained there are no dev scores; the last epochs then count as the best.
        """
        state = self.state
        trained = {}
        if state.epoch > 0:  # epoch 0 is that of the first weights: no batch was trained on
            trained["train_loss"] = state.loss_sum / max(self._epoch_batches - state.nonfinite_batches, 1)
        row = {
            "epoch": state.epoch,
            "step": state.step,
            **trained,
            **dev,
            **({"kept": True} if keep and not dev else {}),
        }
        state.curve.append(row)
        if keep:
            if self.control.ranks.first:
                with atomic_path(best_path(self.folder, state.epoch)) as partial:
                    weights = self.stepper.evaluated_model.state_dict()
                    write_tensors(partial, {name: tensor.cpu() for name, tensor in weights.items()})
            shown = f", dev WER {100 * dev['dev_wer']:.1f} %, dev loss {dev['dev_loss']:.3f}" if dev else ""
            loss = f", loss {trained['train_loss']:.3f}" if trained else ""
            epoch = f"epoch {state.epoch}/{self.settings.epochs}" if trained else "not trained"
            self.control.run_progress.message(f"{self.job.name}: {epoch}{loss}{shown}")
        self._log(trained | dev, state.epoch)
        state.epoch, state.batch, state.loss_sum, state.nonfinite_batches = state.epoch + 1, 0, 0.0, 0
        if state.epoch <= self.settings.epochs:
            self._checkpoint_or_stop()
        elif self.control.ranks.first:
            self.checkpoint()

    def _log(self, scalars: dict[str, float], step: int) -> None:
        if self.writer is not None:
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, step)

    # -- one step ----------------------------------------------------------------------------------------

    def fit_batch(self, batch: Batch) -> Tensor:
        """Take one optimizer step; a non-finite loss or gradient changes nothing and is counted."""
        state, control = self.state, self.control
        global_batch = sync_batch(batch, control.should_stop(), control.ranks)
        self._stop = global_batch.stop
        self._note_unreadable(global_batch.unreadable)
        loss = self._step(batch, global_batch) if global_batch.utterances else 0.0
        state.batch += 1
        state.step += 1
        self.optimizer_step += 1
        if math.isfinite(loss):
            state.loss_sum += loss
            state.nonfinite_row = 0
        else:
            self._note_nonfinite([id_ for part in control.ranks.gather(batch.ids) for id_ in part])
        control.run_progress.update(
            f"train {self.job.name}",
            state.step,
            max(self.total_steps, state.step),
            "steps",
            f"epoch {state.epoch} loss {loss:.3f}",
        )
        if state.batch < self._epoch_batches:
            self._checkpoint_or_stop()
        return torch.tensor(loss)

    def _step(self, batch: Batch, global_batch: GlobalBatch) -> float:
        step, settings = self.state.step, self.settings
        warmup = round(self.total_steps * settings.warmup_epochs / settings.epochs)
        rate = learning_rate(step, self.total_steps, warmup, settings.learning_rate, settings.final_rate_share)
        self.stepper.objective.weigh(step, self.total_steps)
        loss, parts = self.stepper.take(batch, global_batch.frames, step, rate)
        if parts and step % 20 == 0:
            self._log({f"step/{name}": part for name, part in parts.items()} | {"step/rate": rate}, step)
        return loss

    def _note_nonfinite(self, ids: Sequence[str]) -> None:
        """Count and report a skipped step; `ids` are those of the global batch."""
        state, most, named = self.state, self.settings.max_nonfinite_steps, examples(ids)
        state.nonfinite_row += 1
        state.nonfinite_batches += 1
        state.nonfinite_total += 1
        self.control.run_progress.message(
            f"{self.job.name}: step {state.step} is not finite and was left out (utterances {named})"
        )
        if state.nonfinite_row > most:
            raise TrainingError(
                f"{state.nonfinite_row} steps in a row are not finite; the last had utterances {named}",
                where=f"training of {self.job.name}",
                expected=f"at most {most} in a row",
                remedy="Lower learning_rate, or look at those utterances with `asr-kd check`; the checkpoint holds",
            )

    def _note_unreadable(self, unreadable: Sequence[Unreadable]) -> None:
        """Count and report each unreadable utterance once."""
        known, most = self.state.unreadable, self.settings.max_bad_share
        for id_, audio, reason in unreadable:
            if id_ not in known:
                known[id_] = {"audio": audio, "reason": reason}
                self.control.run_progress.message(f"{self.job.name}: left out {id_}: {reason}")
        share = len(known) / max(self.batches.num_utterances, 1)
        if share > most:
            first = next(iter(known.values()))["reason"]
            raise TrainingError(
                f"{len(known)} utterances ({100 * share:.1f} %) cannot be read; the first: {first}",
                where=f"training of {self.job.name}",
                expected=f"at most {100 * most:g} % (max_bad_share)",
                remedy="Look at the corpus with `asr-kd check`",
            )

    # -- the dev set -------------------------------------------------------------------------------------

    def evaluate_batch(self, batch: Batch, stage: sb.Stage) -> Tensor:
        """Add a dev batch to the scores and return its CTC loss per frame."""
        for item in batch.unreadable:
            if item.id not in self._unreadable_dev:
                self._unreadable_dev.add(item.id)
                self.control.progress.message(f"{self.job.name}: dev utterance {item.id} is left out: {item.reason}")
        if not batch.ids:
            return torch.zeros(())
        batch = batch.to(self.device)
        with self.training_ctx:
            output: EncoderOutput = self.stepper.evaluated_model(batch.features, batch.feature_lens)
        return self.dev.add(batch.ids, output.log_probs, output.lens, batch.references)

    # -- stopping ----------------------------------------------------------------------------------------

    def _checkpoint_or_stop(self) -> None:
        reason, ranks = self._stop, self.control.ranks
        due = time.monotonic() - self._checkpointed_at >= self.settings.checkpoint_minutes * 60
        if ranks.first and (due or reason is not None):
            self.checkpoint()
        if reason is not None:
            ranks.barrier()  # torchrun ends all processes when one exits: wait until the state is saved
            raise StoppedEarly(
                f"training of {self.job.name} stopped ({reason}) at epoch {self.state.epoch}, "
                f"step {self.state.step}; its state is saved",
                remedy="Run the same command again to resume",
            )

    def checkpoint(self) -> None:
        """Save the state and delete weights of epochs no longer among the best; called in the first process."""
        stepper = self.stepper
        save_checkpoint(self.folder / "checkpoints", stepper.trained, stepper.optimizer, self.state)
        # A run may resume from the previous checkpoint: the best epochs at that time are kept too.
        prune_best(self.folder, self.state.curve, self._checkpointed_rows, self.settings.average_best)
        self._checkpointed_rows = len(self.state.curve)
        self._checkpointed_at = time.monotonic()
