"""Cost that each objective adds to a training step, compared with CTC alone. Prints a table.

    python benchmarks/objective_cost.py exp/an4/manifests exp/an4/teachers/teacher/model [--model tiny] [--rounds 10]
        [--only frame_kl delayed_kl]

A step here is all of it: features, targets from a store (extracted first, with this teacher, into a temporary folder),
collating, the optimizer step; λ = 0.5. `in memory`: features and what the store gives are, as from the second epoch on;
`read`: audio is read, targets decoded and layers read anew each time, as with a corpus that does not fit.

All forms of all kinds of `distill.objectives` take turns on the same batches, which end in the silence that
the latest of them needs; their order is drawn anew for each batch. `adds` is the median, over batches and rounds,
of an objective's processor time over that of CTC alone, less 1; `reading` is the part, of CTC's step, that reading and
collating added. One thread.

Not as in training: hypotheses are four copies of the transcript, and nothing is augmented.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from training_batches import MODELS, frames_of, load, make_dataset, make_stepper, plan_batches, read_corpus
from training_step import PLAIN

from asr_kd.corpora.manifest import Utterance
from asr_kd.losses import DistillSettings
from asr_kd.losses.settings import ObjectiveSettings
from asr_kd.models.settings import ConformerSettings
from asr_kd.models.weights import load_model
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.targets.stored_arrays import spell_transcripts
from asr_kd.teachers.local import LocalTeacher
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.batch import WeightedHypothesis
from asr_kd.training.batch_sampler import SampledUtterance
from asr_kd.training.dataset import SpeechDataset
from asr_kd.training.step import Stepper

FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "frame_kl": {
        "plain": {"selection": "all"},
        "selected": {"selection": "nonblank", "dilation": 1},
        "3 frames late": {"selection": "nonblank", "dilation": 1, "delay_frames": 3},
    },
    "delayed_kl": {mode: {"mode": mode} for mode in ("minimum", "soft_minimum", "utterance", "learned")},
}
"""Kinds with more than one form worth timing; every other kind is timed as it is by default."""
CTC = "CTC alone"
HYPOTHESES = 4
CACHES = {"in memory": 1_000, "read": 0}
"""Memory for features and the teacher's layers in MB, by what that is called."""


def forms_of(kind: str, student: ConformerSettings, teacher: ConformerSettings) -> dict[str, dict[str, Any]]:
    """Settings of a kind by the name of the form."""
    if kind == "representation":
        return {"last layers": {"pairs": [{"student": student.layers, "teacher": teacher.layers}]}}
    return FORMS.get(kind, {"": {}})


def objectives(
    kinds: Sequence[str], student: ConformerSettings, teacher: ConformerSettings
) -> dict[str, DistillSettings | None]:
    """Everything that takes turns, by name."""
    found: dict[str, DistillSettings | None] = {CTC: None}
    for kind in kinds:
        for form, settings in forms_of(kind, student, teacher).items():
            distill = DistillSettings.model_validate({"objectives": {kind: settings}})
            found[f"{kind}, {form}" if form else kind] = distill
    return found


class Timed:
    """An objective's step and where it reads from.

    Args:
        stepper: the objective's.
        data: with the targets that it needs.
    """

    def __init__(self, stepper: Stepper, data: SpeechDataset) -> None:
        self.stepper, self.data = stepper, data

    def step(self, draws: Sequence[SampledUtterance], number: int) -> tuple[float, float]:
        """Processor seconds of it all, and of reading and collating."""
        start = time.process_time()
        batch = load(self.data, draws)
        read = time.process_time()
        self.stepper.take(batch, frames_of(batch), number, 1e-4)
        return time.process_time() - start, read - start


Turn = tuple[str, int]
"""An objective's name, and the memory for features and layers in MB."""


class Data(NamedTuple):
    """What all objectives learn from."""

    utterances: Sequence[Utterance]
    vocabulary: Vocabulary
    store: Store


def prepare(
    distill: DistillSettings | None,
    student: ConformerSettings,
    teacher: ConformerSettings,
    precision: str,
    data: Data,
    cache_mb: int,
) -> Timed:
    """An objective, ready to take steps."""
    stepper = make_stepper(student, data.vocabulary, precision, distill, PLAIN, teacher)
    objective = stepper.objective
    more: dict[str, Any] = {"arrays": objective.needs_arrays}
    if objective.needs_targets or objective.needs_arrays:
        more["store"] = data.store
    if objective.needs_hypotheses:
        spelled = [data.vocabulary.encode(utterance.text or "") for utterance in data.utterances]
        more["hypotheses"] = [[WeightedHypothesis(tokens, 1.0 / HYPOTHESES)] * HYPOTHESES for tokens in spelled]
    return Timed(stepper, make_dataset(data.utterances, data.vocabulary, cache_mb, **more))


def measure(
    timed: dict[Turn, Timed], batches: Sequence[Sequence[SampledUtterance]], rounds: int
) -> dict[Turn, tuple[float, float]]:
    """By turn: what the whole step and its reading add, both over the step of CTC alone on the same batch."""
    added: dict[Turn, list[tuple[float, float]]] = {turn: [] for turn in timed}
    order, draw = list(timed), random.Random(0)
    for round_ in range(rounds + 1):
        for draws in batches:
            draw.shuffle(order)
            taken = {turn: timed[turn].step(draws, round_) for turn in order}
            if round_:  # the first one warms up, and fills the cache of features
                for (name, cache_mb), (seconds, reading) in taken.items():
                    whole, loading = taken[CTC, cache_mb]
                    added[name, cache_mb].append((seconds / whole - 1, (reading - loading) / whole))
    return {turn: (median(a for a, _ in found), median(b for _, b in found)) for turn, found in added.items()}


def label(folder: Path, teacher: Path, layers: int, utterances: Sequence[Utterance], vocabulary: Vocabulary) -> Store:
    """A store of the teacher's posteriors, of pooled ones, and of its last layer."""
    settings = TargetSettings(pooled=True, layers=(layers,))
    transcripts = spell_transcripts(utterances, vocabulary, "none")
    extract(LocalTeacher(teacher), utterances, settings, folder, transcripts=transcripts)
    return Store.open(folder, vocabulary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", type=Path, help="a run's folder of manifests: train.jsonl and tokens.txt")
    parser.add_argument("teacher", type=Path, help="its model folder")
    parser.add_argument("--model", default="tiny", choices=list(MODELS))
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--seconds", type=float, default=16.0, help="of padded audio in a batch")
    parser.add_argument("--batches", type=int, default=6, help="from short to long utterances")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=[], help="kinds of objectives; without it all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    utterances, vocabulary = read_corpus(arguments.manifests)
    student, teacher = MODELS[arguments.model], load_model(arguments.teacher).model.settings
    if not isinstance(teacher, ConformerSettings):
        parser.error(f"{arguments.teacher} is not a Conformer")
    kinds = arguments.only or list(ObjectiveSettings.model_fields)
    chosen = objectives(kinds, student, teacher)
    with tempfile.TemporaryDirectory() as folder:
        silence = 12  # feature frames: three of the student's
        batches = plan_batches(utterances, arguments.seconds, arguments.batches, silence)
        rows = sorted({draw.row for batch in batches for draw in batch})
        chosen_utterances = [utterances[row] for row in rows]
        store = label(Path(folder), arguments.teacher, teacher.layers, chosen_utterances, vocabulary)
        data = Data(utterances, vocabulary, store)
        timed = {
            (name, cache_mb): prepare(distill, student, teacher, arguments.precision, data, cache_mb)
            for name, distill in chosen.items()
            for cache_mb in CACHES.values()
        }
        found = measure(timed, batches, arguments.rounds)
    print(f"{arguments.model}, {arguments.precision}, batches of {arguments.seconds:g} s, torch {torch.__version__}\n")
    print(f"{'':28}{''.join(f'{form:^20}' for form in CACHES)}")
    print(f"{'objective':28}{'      adds   reading' * len(CACHES)}  {'further passes'}")
    for name in chosen:
        figures = "".join(f"{share:>10.1%}" for cache_mb in CACHES.values() for share in found[name, cache_mb])
        print(f"{name:28}{figures}  {', '.join(timed[name, 0].stepper.objective.needs_passes)}")


if __name__ == "__main__":
    main()
