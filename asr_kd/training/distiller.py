"""Training loop: a speechbrain Brain with bit-exact resuming, in one process or several.

The Brain supplies the loop, mixed precision and devices. This class adds steps whose randomness depends on their
number alone, checkpoints, the learning rate, and the handling of non-finite steps and unreadable audio. Gradients are
summed by `Gradients` (step.py): DDP averages over processes and cannot divide by the frames of the global batch.
"""

import math
from collections.abc import Sequence
from typing import Any

import speechbrain as sb
import torch
from torch import Tensor

from asr_kd.decoding.greedy import greedy
from asr_kd.distributed import Ranks
from asr_kd.errors import StoppedEarly, TrainingError
from asr_kd.files import atomic_path
from asr_kd.losses import Objective
from asr_kd.losses.base import References
from asr_kd.losses.ctc import ctc_loss
from asr_kd.models.acoustic_model import EncoderOutput
from asr_kd.models.weights import Model, write_tensors
from asr_kd.scoring.wer import score
from asr_kd.teachers.encoder_ctc import EncoderCtc
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.batch import Batch, GlobalBatch, sync_batch
from asr_kd.training.checkpoint import TrainingState, best_path, load_newest, prune_best, save_checkpoint
from asr_kd.training.settings import TrainSettings
from asr_kd.training.step import Stepper, learning_rate, start_epoch
from asr_kd.training.training_context import TrainingContext, note_nonfinite, note_unreadable


class DevScores:
    """Hypotheses and loss of one pass over the dev set, of which each process evaluates a part."""

    def __init__(self, references: dict[str, str], vocabulary: Vocabulary, ranks: Ranks) -> None:
        self.references, self.vocabulary, self.ranks = references, vocabulary, ranks
        self.clear()

    def clear(self) -> None:
        self._hypotheses: dict[str, str] = {}
        self._loss, self._frames = 0.0, 0

    def add(self, ids: Sequence[str], log_probs: Tensor, lens: Tensor, references: References) -> Tensor:
        """Add a batch: log-probabilities [B, T, V], lengths [B]. Return its CTC loss per frame."""
        blank_id = self.vocabulary.blank_id
        for id_, hypothesis in zip(ids, greedy(log_probs, lens, blank_id), strict=True):
            self._hypotheses[id_] = self.vocabulary.decode(hypothesis.tokens)
        loss = ctc_loss(log_probs, lens, references, blank_id)
        self._loss += float(loss)
        self._frames += int(lens.sum())
        return loss.cpu() / lens.sum().cpu()

    def row(self) -> dict[str, float]:
        """Return WER and loss over the parts of all processes; the same in each of them."""
        hypotheses: dict[str, str] = {}
        loss, frames = 0.0, 0
        for part, part_loss, part_frames in self.ranks.gather([self._hypotheses, self._loss, self._frames]):
            hypotheses |= part
            loss, frames = loss + part_loss, frames + part_frames
        errors = score({id_: self.references[id_] for id_ in hypotheses}, hypotheses, "none")
        return {"dev_wer": errors.wer, "dev_loss": loss / max(frames, 1)}


class Distiller(sb.Brain):
    """Trains `model` on `objective`; call `fit_all`."""

    def __init__(
        self,
        model: Model | EncoderCtc,
        objective: Objective,
        settings: TrainSettings,
        run: TrainingContext,
    ) -> None:
        super().__init__(
            modules={"model": model, "objective": objective},
            run_opts={"device": str(run.control.device), "precision": settings.precision, "noprogressbar": True},
        )
        self.settings, self.run = settings, run
        self.model = model
        self.stepper = Stepper(model, objective, settings, run, self.training_ctx)
        self.dev = DevScores(run.dev_references, run.vocabulary, run.control.ranks)
        self.state = TrainingState(run.key)
        self.total_steps = 0
        self._checkpointed_rows = 0
        self._stop: str | None = None
        self._unreadable_dev: set[str] = set()

    # -- epochs -----------------------------------------------------------------------------------------

    def fit_all(self, train_loader: Any, dev_loader: Any) -> TrainingState:
        """Train to the last epoch, from the newest intact checkpoint if there is one.

        Raises:
            StoppedEarly: `should_stop` returned a reason; the state is saved.
            TrainingError: too many steps that are not finite, or too much unreadable audio; or the processes do not
                see the same files.
        """
        run = self.run
        folder = run.folder / "checkpoints"
        run.control.ranks.barrier()  # the files of an earlier stage are complete
        restored = load_newest(folder, self.stepper.trained, self.stepper.optimizer, run.key, run.control.run_progress)
        steps = run.control.ranks.gather(restored.step if restored is not None else 0)
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
            run.control.run_progress.message(f"{run.name}: resumes at epoch {restored.epoch}, batch {restored.batch}")
        # Batches differ a little between epochs; the schedule takes an estimate from two of them.
        self.total_steps = run.batches.count_all(self.settings.epochs)
        self.fit(range(self.state.epoch, self.settings.epochs + 1), train_loader, dev_loader)
        return self.state

    def init_optimizers(self) -> None:
        """Do nothing: `Stepper` creates the optimizer before a checkpoint is restored into it."""

    def _wrap_distributed(self) -> None:
        """Do nothing: `Gradients` sums the gradients."""

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Compose the batches of the epoch, or clear the dev hypotheses."""
        if stage == sb.Stage.TRAIN:
            self.run.batches.set_epoch(self.state.epoch)
            for model in (self.model, self.stepper.evaluated_model):
                start_epoch(model, self.state.epoch, self.settings)
            self.run.batches.skip = self.state.batch
            self.step = self.state.batch
            self._epoch_batches = len(self.run.batches)
        else:
            self.dev.clear()

    def _fit_valid(self, valid_set: Any, epoch: int, enable: bool) -> None:
        every = self.settings.validate_every_epochs
        is_looked_at = epoch % every == 0 or epoch == self.settings.epochs
        if is_looked_at and self.run.trains_head:
            super()._fit_valid(valid_set, epoch, enable)
        else:
            self._end_epoch({}, keep=is_looked_at)

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Finish an epoch with the dev scores."""
        if stage == sb.Stage.VALID:
            self._end_epoch(self.dev.row(), keep=True)

    def _end_epoch(self, dev: dict[str, float], keep: bool) -> None:
        """Add a row to the curve; keep the weights of epochs that may be averaged.

        An output layer that learns nothing has no dev scores: the last epochs are then the best.
        """
        run, state = self.run, self.state
        row = {
            "epoch": state.epoch,
            "step": state.step,
            "train_loss": state.loss_sum / max(self._epoch_batches, 1),
            **dev,
            **({"kept": True} if keep and not dev else {}),
        }
        state.curve.append(row)
        if keep:
            if run.control.ranks.first:
                with atomic_path(best_path(run.folder, state.epoch)) as partial:
                    weights = self.stepper.evaluated_model.state_dict()
                    write_tensors(partial, {name: tensor.cpu() for name, tensor in weights.items()})
            shown = f", dev WER {100 * dev['dev_wer']:.1f} %, dev loss {dev['dev_loss']:.3f}" if dev else ""
            run.control.run_progress.message(
                f"{run.name}: epoch {state.epoch}/{self.settings.epochs}, loss {row['train_loss']:.3f}{shown}"
            )
        run.log_scalars({key: row[key] for key in ("train_loss", *dev)}, state.epoch)
        state.epoch, state.batch, state.loss_sum = state.epoch + 1, 0, 0.0
        if state.epoch <= self.settings.epochs:
            self._checkpoint_or_stop()
        elif run.control.ranks.first:
            self.checkpoint()

    # -- one step ----------------------------------------------------------------------------------------

    def fit_batch(self, batch: Batch) -> Tensor:
        """Take one optimizer step; a non-finite loss or gradient changes nothing and is counted."""
        state, run = self.state, self.run
        global_batch = sync_batch(batch, run.control.should_stop(), run.control.ranks)
        self._stop = global_batch.stop
        note_unreadable(state, global_batch.unreadable, run, self.settings.max_bad_share)
        loss = self._step(batch, global_batch) if global_batch.utterances else 0.0
        state.batch += 1
        state.step += 1
        self.optimizer_step += 1
        if math.isfinite(loss):
            state.loss_sum += loss
            state.nonfinite_row = 0
        else:
            ids = [id_ for part in run.control.ranks.gather(batch.ids) for id_ in part]
            note_nonfinite(state, ids, run, self.settings.max_nonfinite_steps)
        run.control.run_progress.update(
            f"train {run.name}",
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
            self.run.log_scalars({f"step/{name}": part for name, part in parts.items()} | {"step/rate": rate}, step)
        return loss

    # -- the dev set -------------------------------------------------------------------------------------

    def evaluate_batch(self, batch: Batch, stage: sb.Stage) -> Tensor:
        """Add a dev batch to the scores and return its CTC loss per frame."""
        for item in batch.unreadable:
            if item.id not in self._unreadable_dev:
                self._unreadable_dev.add(item.id)
                self.run.control.progress.message(
                    f"{self.run.name}: dev utterance {item.id} is left out: {item.reason}"
                )
        if not batch.ids:
            return torch.zeros(())
        batch = batch.to(self.device)
        with self.training_ctx:
            output: EncoderOutput = self.stepper.evaluated_model(batch.features, batch.feature_lens)
        return self.dev.add(batch.ids, output.log_probs, output.lens, batch.references)

    # -- stopping ----------------------------------------------------------------------------------------

    def _checkpoint_or_stop(self) -> None:
        run, reason = self.run, self._stop
        if run.control.ranks.first and (reason is not None or run.should_checkpoint()):
            self.checkpoint()
        if reason is not None:
            run.control.ranks.barrier()  # torchrun ends all processes when one exits: wait until the state is saved
            raise StoppedEarly(
                f"training of {run.name} stopped ({reason}) at epoch {self.state.epoch}, "
                f"step {self.state.step}; its state is saved",
                remedy="Run the same command again to resume",
            )

    def checkpoint(self) -> None:
        """Save the state and delete weights of epochs no longer among the best; called in the first process."""
        stepper = self.stepper
        save_checkpoint(self.run.folder / "checkpoints", stepper.trained, stepper.optimizer, self.state)
        # The previous checkpoint may be the one that is resumed: the best epochs of that time are kept, too.
        prune_best(self.run.folder, self.state.curve, self._checkpointed_rows, self.settings.average_best)
        self._checkpointed_rows = len(self.state.curve)
