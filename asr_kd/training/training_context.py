"""What a training run needs beside the model and its objective, and what it does about bad steps and bad audio."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_kd.distributed import ALONE, Ranks
from asr_kd.errors import TrainingError
from asr_kd.models.conformer import Conformer
from asr_kd.progress import SILENT, Progress
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.batch_sampler import EpochBatches
from asr_kd.training.checkpoint import TrainingState
from asr_kd.training.data import Unreadable


@dataclass(frozen=True)
class TrainingContext:
    """What a run needs beside the model and its objective."""

    name: str
    job: str  # hash of settings and data: a checkpoint of another job is refused
    folder: Path
    vocabulary: Vocabulary
    seed: int
    batches: EpochBatches
    dev_references: dict[str, str]
    progress: Progress  # silent in all processes but the first
    should_checkpoint: Callable[[], bool]
    should_stop: Callable[[], str | None]  # the reason to stop, or None
    log_scalars: Callable[[dict[str, float], int], None]
    dense_teacher: Conformer | None = None
    ranks: Ranks = ALONE
    own_progress: Progress = SILENT  # for what happens in one process only


def note_nonfinite(state: TrainingState, ids: Sequence[str], around: TrainingContext, most_in_a_row: int) -> None:
    """Count and name a step that was left out; `ids` are those of the global batch.

    Raises:
        TrainingError: more than `most_in_a_row` of them.
    """
    state.nonfinite_row += 1
    state.nonfinite_total += 1
    named = ", ".join(ids[:5]) + (" …" if len(ids) > 5 else "")
    around.progress.message(f"{around.name}: step {state.step} is not finite and was left out (utterances {named})")
    if state.nonfinite_row > most_in_a_row:
        raise TrainingError(
            f"{state.nonfinite_row} steps in a row are not finite; the last had utterances {named}",
            where=f"training of {around.name}",
            expected=f"at most {most_in_a_row} in a row",
            remedy="Lower learning_rate, or look at those utterances with `asr-kd check`; the checkpoint holds",
        )


def note_unreadable(
    state: TrainingState, unreadable: Sequence[Unreadable], around: TrainingContext, max_share: float
) -> None:
    """Count and name each utterance that could not be read, once.

    Raises:
        TrainingError: more than `max_share` of the training set.
    """
    known = state.unreadable
    for id_, audio, reason in unreadable:
        if id_ not in known:
            known[id_] = {"audio": audio, "reason": reason}
            around.progress.message(f"{around.name}: left out {id_}: {reason}")
    share = len(known) / max(around.batches.num_utterances, 1)
    if share > max_share:
        first = next(iter(known.values()))["reason"]
        raise TrainingError(
            f"{len(known)} utterances ({100 * share:.1f} %) cannot be read; the first: {first}",
            where=f"training of {around.name}",
            expected=f"at most {100 * max_share:g} % (max_bad_share)",
            remedy="Look at the corpus with `asr-kd check`",
        )
