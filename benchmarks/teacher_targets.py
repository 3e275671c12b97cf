"""Teacher posteriors on training audio and on unseen audio, side by side. Prints tables.

    python benchmarks/teacher_targets.py RUN_OR_STORE_OR_MODEL… [--train M.jsonl] [--dev M.jsonl]
        [--utterances N] [--noisy]

- RUN: a run's folder: every teacher as its recipe has it, one model, one of folds or an ensemble.
- RUN/targets/NAME: that teacher of the run; posteriors of its training audio are read from the store.
- any other store: what is stored, without the unseen side.
- MODEL, or MODEL+MODEL+…: a model folder, or the average of several.
NAME=… before one of them names it in the tables. Manifests are those of the first run, or --train and --dev.

A teacher labels an even sample of the training manifest as for its students (one of folds: each utterance by the member
that was not trained on it), and an even sample of dev. Both are packed as in a store, and entropies are those of the
packed posteriors, in nats a frame, the tail as one entry. "non-blank": over frames whose most probable token is not
blank. "off": mass outside the most probable token there, which a one-hot label does not have. NLL: of the transcript
under CTC, nats a token. WER: greedy.

The last table has the Kolmogorov-Smirnov distance between training and unseen audio, of the entropies of non-blank
frames ("softness") and of the NLL by utterance ("rightness"). 0: the targets of the training audio are distributed like
those of unseen speakers; 1: nothing like them. "floor" is the same distance between two halves of the unseen speakers:
smaller distances mean nothing.

--noisy adds both sides with noise, rooms, telephones and other levels, as in a store with `targets.perturbed`.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr_kd.corpora.corpus import fold_of_utterances
from asr_kd.corpora.manifest import Utterance, read_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.decoding.greedy import greedy
from asr_kd.features.augment import WaveformAugmentation
from asr_kd.posteriors.measures import dense_kl
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.language_models import RESOLVED
from asr_kd.recipe.settings import load_recipe
from asr_kd.recipe.systems import absent_systems
from asr_kd.recipe.teachers import open_teacher
from asr_kd.scoring.wer import score
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.targets.bridge import bridge
from asr_kd.targets.settings import Variant
from asr_kd.targets.sharded_extraction import batches_by_teacher
from asr_kd.targets.store_index import INDEX
from asr_kd.targets.stored_arrays import run_teacher
from asr_kd.teachers import LocalTeacher, Teacher
from asr_kd.teachers.ensemble import Ensemble
from asr_kd.text.normalize import normalize

NOISY = WaveformAugmentation()
SETTINGS = TargetSettings(max_quarantine_share=1.0, fidelity_utterances=1)
AS_RECORDED, PERTURBED = Variant(1.0), Variant(1.0, "noisy", NOISY)
LOWEST = -30.0
"""Log-probabilities are cut off here for the likelihood: a certain blank would make a transcript impossible."""


@dataclass(frozen=True)
class Subject:
    """A teacher, or what is stored of one."""

    name: str
    teacher: Teacher | None
    store: Store | None = None


@dataclass(frozen=True)
class Side:
    """Statistics of a teacher on one kind of audio."""

    utterances: int
    frames: int
    bytes_per_frame: float
    entropy: float
    non_blank_entropy: float
    non_blank_off: float
    blank_share: float
    nll: float | None = None
    wer: float | None = None


@dataclass(frozen=True)
class ByUtterance:
    """Entropies of the non-blank frames of each utterance, and the NLL of its transcript."""

    entropies: dict[str, Tensor]
    nll: dict[str, float]

    def of(self, ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return both for these utterances, concatenated."""
        return (
            torch.cat([self.entropies[name] for name in ids if name in self.entropies]),
            torch.tensor([self.nll[name] for name in ids if name in self.nll]),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", metavar="[NAME=]RUN_OR_STORE_OR_MODEL")
    parser.add_argument("--train", type=Path, help="manifest of what the teachers were trained on")
    parser.add_argument("--dev", type=Path, help="manifest of speakers that none of them was trained on")
    parser.add_argument("--utterances", type=int, default=200, help="sample of each manifest")
    parser.add_argument("--noisy", action="store_true", help="also both sides with noise and reverberation")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    subjects = [subject for place in arguments.places for subject in opened(place)]
    manifests = next((run / "manifests" for place in arguments.places if (run := run_of(path_of(place)))), Path())
    train = spread(read_manifest(arguments.train or manifests / "train.jsonl"), arguments.utterances)
    dev = spread(read_manifest(arguments.dev or manifests / "dev.jsonl"), arguments.utterances)
    rows = {subject.name: measure(subject, train, dev, arguments.noisy) for subject in subjects}
    divergences = between({subject.name: subject.teacher for subject in subjects if subject.teacher is not None}, dev)
    print_all(rows, divergences)
    if arguments.json:
        plain = {name: {**row, "kl": divergences.get(name, {})} for name, row in rows.items()}
        arguments.json.write_text(json.dumps(plain, indent=2, default=asdict) + "\n", encoding="utf-8")


# -- what is compared ------------------------------------------------------------------------------------


def opened(place: str) -> list[Subject]:
    """Return a run's teachers, a store with its teacher where that is known, or a model."""
    name, path, run = name_of(place), path_of(place), run_of(path_of(place))
    if run is not None:
        context = RunContext(load_recipe(run / RESOLVED, [f"work_dir={json.dumps(str(run))}"]))
        absent, (_, vocabulary) = absent_systems(context), context.read_corpus()
        wanted = [path.name] if path != run else [each for each in context.recipe.teachers if each not in absent]
        store = Store.open(path) if path != run else None
        teachers = {
            each: bridge(open_teacher(context, each), vocabulary, settings=context.recipe.bridge) for each in wanted
        }
        return [
            Subject(name if name and len(wanted) == 1 else f"{name}{each}", teacher, store)
            for each, teacher in teachers.items()
        ]
    if (path / INDEX).is_file():
        return [Subject(name or path.name, None, Store.open(path))]
    members = [LocalTeacher(Path(folder)) for folder in place.split("=", 1)[-1].split("+")]
    teacher = members[0] if len(members) == 1 else Ensemble(members, [1.0] * len(members), "probabilities")
    return [Subject(name or teacher.name, teacher)]


def name_of(place: str) -> str:
    return place.split("=", 1)[0] if "=" in place else ""


def path_of(place: str) -> Path:
    return Path(place.split("=", 1)[-1])


def run_of(path: Path) -> Path | None:
    """The run that a folder is, or whose store it is."""
    above = path.parent.parent if path.parent.name == "targets" else path
    return above if (above / RESOLVED).is_file() else None


def spread(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """Even over the sorted ids, so that all speakers are there."""
    ordered = sorted((utterance for utterance in utterances if utterance.text), key=lambda item: item.id)
    count = min(count, len(ordered))
    return [ordered[index * len(ordered) // count] for index in range(count)]


# -- measures --------------------------------------------------------------------------------------------


def measure(subject: Subject, train: Sequence[Utterance], dev: Sequence[Utterance], noisy: bool) -> dict[str, Any]:
    """Return both sides of a teacher and their distance; with `noisy` also perturbed."""
    labelled, train_details = side(subject, train, subject.store)
    if subject.teacher is None:
        return {"train": labelled}
    unseen, unseen_details = side(subject, dev, None)
    fold_of = fold_of_utterances(dev, 2, seed=0)
    halves = [unseen_details.of([u.id for u in dev if fold_of[u.id] == fold]) for fold in (0, 1)]
    whole = train_details.of([u.id for u in train]), unseen_details.of([u.id for u in dev])
    apart = [[distance(one, other) for one, other in zip(*pair, strict=True)] for pair in (whole, halves)]
    names = ("softness", "rightness")
    distances = {name: {"distance": apart[0][at], "floor": apart[1][at]} for at, name in enumerate(names)}
    sides = {"train": train, "dev": dev} if noisy else {}
    perturbed = {f"{name}, perturbed": side(subject, part, None, PERTURBED)[0] for name, part in sides.items()}
    return {"train": labelled, "dev": unseen, **perturbed, **distances}


def side(
    subject: Subject, utterances: Sequence[Utterance], store: Store | None, variant: Variant = AS_RECORDED
) -> tuple[Side, ByUtterance]:
    """Statistics on these utterances in one variant, as a whole and by utterance."""
    with tempfile.TemporaryDirectory() as folder:
        if store is None:
            assert subject.teacher is not None
            name = variant.augmented_copy
            perturbed = {name: variant.augmentation} if name else {}
            extract(subject.teacher, utterances, SETTINGS.model_copy(update={"perturbed": perturbed}), folder)
            store = Store.open(folder)
        stored = {u.id: store.read(u.id, variant.name) for u in utterances if u.id in store}
        bytes_per_frame, blank_id = store.info.bytes_per_frame, store.info.vocabulary.blank_id
    best = [(item.probs.max(-1), item.tokens.long()) for item in stored.values()]
    non_blank = [tokens.gather(-1, at[:, None]).squeeze(-1) != blank_id for (_, at), tokens in best]
    probs = [item.probs.double() for item in stored.values()]
    tails = [(1 - kept.sum(-1)).clamp(0, 1) for kept in probs]
    entropies = [
        torch.special.entr(kept).sum(-1) + torch.special.entr(tail) for kept, tail in zip(probs, tails, strict=True)
    ]
    everywhere, where = torch.cat(entropies), torch.cat(non_blank)
    readable = [utterance for utterance in utterances if utterance.id in stored]
    nll, tokens, wer = transcript_scores(subject.teacher, readable, variant) if subject.teacher else ({}, {}, None)
    found = Side(
        utterances=len(stored),
        frames=len(everywhere),
        bytes_per_frame=bytes_per_frame,
        entropy=float(everywhere.mean()),
        non_blank_entropy=float(everywhere[where].mean()),
        non_blank_off=float(1 - torch.cat([kept.amax(-1) for kept in probs])[where].mean()),
        blank_share=float(1 - where.double().mean()),
        nll=sum(nll[name] * tokens[name] for name in nll) / sum(tokens.values()) if tokens else None,
        wer=wer,
    )
    by_utterance = {name: frames[at] for name, frames, at in zip(stored, entropies, non_blank, strict=True)}
    return found, ByUtterance(by_utterance, nll)


def transcript_scores(
    teacher: Teacher, utterances: Sequence[Utterance], variant: Variant
) -> tuple[dict[str, float], dict[str, int], float]:
    """Return NLL of each transcript, nats a token, its tokens, and greedy WER; each by its own teacher."""
    losses, tokens, hypotheses = {}, {}, {}
    for utterance, log_probs in transcribe_all(teacher, utterances, variant).items():
        text, lens = normalize(utterance.text or "", "librispeech"), torch.tensor([len(log_probs)])
        found = greedy(log_probs[None], lens, teacher.vocabulary.blank_id)[0].tokens
        hypotheses[utterance.id] = teacher.vocabulary.decode(found)
        if teacher.vocabulary.unknown_characters(text):
            continue
        spelled = torch.tensor([teacher.vocabulary.encode(text)])
        loss = torch.nn.functional.ctc_loss(
            log_probs.clamp_min(LOWEST)[:, None],
            spelled,
            lens,
            torch.tensor([spelled.shape[1]]),
            blank=teacher.vocabulary.blank_id,
            reduction="sum",
        )
        if loss.isfinite():  # too many tokens for so many frames
            tokens[utterance.id] = spelled.shape[1]
            losses[utterance.id] = float(loss) / spelled.shape[1]
    references = {utterance.id: utterance.text or "" for utterance in utterances}
    return losses, tokens, score(references, hypotheses, "librispeech").wer


def transcribe_all(
    teacher: Teacher, utterances: Sequence[Utterance], variant: Variant = AS_RECORDED
) -> dict[Utterance, Tensor]:
    """Posteriors [T, V] of each."""
    posteriors = {}
    for assigned, batch in batches_by_teacher(teacher, utterances, SETTINGS.batch_seconds):
        dense, _ = run_teacher(
            assigned, [variant.apply(read_utterance(utterance), utterance.id) for utterance in batch]
        )
        for row, utterance in enumerate(batch):
            posteriors[utterance] = dense.log_probs[row, : int(dense.lens[row])].float()
    return posteriors


def distance(one: Tensor, other: Tensor) -> float:
    """Kolmogorov-Smirnov: the largest difference between the two shares that lie below any number."""
    ordered, others = (np.sort(side.numpy()) for side in (one, other))
    points = np.concatenate([ordered, others])
    shares = [np.searchsorted(side, points, side="right") / len(side) for side in (ordered, others)]
    return float(np.abs(shares[0] - shares[1]).max())


def between(teachers: Mapping[str, Teacher], dev: Sequence[Utterance]) -> dict[str, dict[str, float]]:
    """KL(row ‖ column) on unseen audio, nats a frame, of teachers with one vocabulary and one frame grid."""
    posteriors = {name: transcribe_all(teacher, dev) for name, teacher in teachers.items()}
    spelled = {name: teacher.vocabulary.sha256 for name, teacher in teachers.items()}
    return {
        row: {
            column: float(torch.cat([dense_kl(ours[u][None], theirs[u][None]).flatten() for u in dev]).mean())
            for column, theirs in posteriors.items()
            if column != row and spelled[row] == spelled[column]
        }
        for row, ours in posteriors.items()
    }


# -- tables ----------------------------------------------------------------------------------------------


def print_all(rows: dict[str, dict[str, Any]], divergences: dict[str, dict[str, float]]) -> None:
    width = max(len(name) for name in rows) + 2
    columns = ("utts", "B/frame", "entropy", "non-blank", "off", "blank %", "NLL", "WER %")
    titles = {"train": "on its training audio, as for students", "dev": "on unseen audio"}
    titles |= {f"{key}, perturbed": f"{title}, perturbed" for key, title in titles.items()}
    for key, title in titles.items():
        if not any(key in row for row in rows.values()):
            continue
        print(f"\n{title}\n{'':{width}}" + "".join(f"{column:>10}" for column in columns))
        for name, row in rows.items():
            print(f"{name:{width}}" + (cells(row[key]) if key in row else "  no teacher"))
    heading = "".join(f"{column:>11}" for column in ("softness", "floor", "rightness", "floor", "non-blank", "NLL"))
    print(f"\ntraining against unseen: distances, then ratios\n{'':{width}}{heading}")
    for name, row in rows.items():
        if "dev" in row:
            distances = [row[key][what] for key in ("softness", "rightness") for what in ("distance", "floor")]
            labelled, unseen = row["train"], row["dev"]
            ratios = [ratio(labelled.non_blank_entropy, unseen.non_blank_entropy), ratio(labelled.nll, unseen.nll)]
            print(f"{name:{width}}" + "".join(f"{each:>11}" for each in (*(f"{d:.3f}" for d in distances), *ratios)))
    if len(divergences) > 1:
        cell = max(width, 9)
        names = "".join(f"{name:>{cell}}" for name in divergences)
        print(f"\nKL(row || column) on unseen audio, nats a frame\n{'':{width}}{names}")
        for name, found in divergences.items():
            shown = [f"{found[other]:.4f}" if other in found else "-" for other in divergences]
            print(f"{name:{width}}" + "".join(f"{each:>{cell}}" for each in shown))


def cells(found: Side) -> str:
    wer = "-" if found.wer is None else f"{100 * found.wer:.1f}"
    nll = "-" if found.nll is None else f"{found.nll:.3f}"
    return (
        f"{found.utterances:10d}{found.bytes_per_frame:10.2f}{found.entropy:10.3f}{found.non_blank_entropy:10.3f}"
        f"{found.non_blank_off:10.3f}{100 * found.blank_share:10.1f}{nll:>10}{wer:>10}"
    )


def ratio(one: float | None, other: float | None) -> str:
    return f"{one / other:.2f}" if one is not None and other else "-"


if __name__ == "__main__":
    main()
