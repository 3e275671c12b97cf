"""Tokens of a teacher that remain when its frames become fewer, by strategy of the bridge. Prints a table.

    python benchmarks/bridge_strategies.py TEACHER_MODEL MANIFEST.jsonl

Audio outside the teacher's training data; TEACHER_MODEL is a folder `…/model` of a run (40 ms frames).

- "20 -> 40 ms (made)": NOT the posteriors of a 20 ms model. The 40 ms teacher runs on the audio twice, the second time
  20 ms later, and the frames of the two are interleaved on wav2vec2's grid (12.5 + 20 j ms). Its two halves are
  independent, so a token can be emitted twice. "KL to own" compares with the teacher's own 40 ms frames.
- "40 -> 60 ms" and "40 -> 80 ms": the teacher's own posteriors; many letters are nearer than 60 or 80 ms, so this is
  harder than with a 20 ms teacher of prose.

Recall: share of the greedy tokens before the bridge that are there after it, in the best alignment; of those lost,
how many were one of two equal letters. NLL: of the transcript under CTC, nats a character, for utterances that every
strategy leaves possible. "before" is what came into the bridge.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import get_args

import jiwer
import torch
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE
from asr_kd.corpora.manifest import Utterance, read_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.decoding.greedy import greedy
from asr_kd.posteriors import DensePosteriors
from asr_kd.posteriors.measures import dense_kl, entropy
from asr_kd.posteriors.types import FrameGrid
from asr_kd.scoring.wer import score
from asr_kd.targets.bridge import STUDENT_GRID
from asr_kd.targets.bridge_frames import Strategy, resample
from asr_kd.targets.stored_arrays import run_teacher
from asr_kd.teachers import LocalTeacher
from asr_kd.text.vocabulary import Vocabulary

BATCH = 8
WAV2VEC2_GRID = FrameGrid(20.0, 12.5)
LOWEST = -30.0
"""Log-probabilities are cut off here for the likelihood: a certain blank would make a transcript impossible."""


@dataclass
class Passage:
    """Posteriors on their way over a bridge."""

    name: str
    source: FrameGrid
    target: FrameGrid
    frames: list[Tensor]  # [T, V] each
    target_lens: list[int]
    own: list[Tensor] | None = None  # the teacher's frames on the target grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("manifest", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    teacher = LocalTeacher(arguments.teacher)
    utterances = [utterance for utterance in read_manifest(arguments.manifest) if utterance.text]
    own, interleaved = compute_posteriors(teacher, utterances)
    passages = [Passage("20 -> 40 ms (made)", WAV2VEC2_GRID, STUDENT_GRID, interleaved, [len(x) for x in own], own)]
    for shift_ms, offset_ms in ((60.0, 45.0), (80.0, 55.0)):
        lens = [int(len(frames) * STUDENT_GRID.shift_ms / shift_ms) for frames in own]
        name = f"40 -> {shift_ms:g} ms"
        passages.append(Passage(name, STUDENT_GRID, FrameGrid(shift_ms, offset_ms), own, lens))
    print(f"{len(utterances)} utterances of {arguments.manifest.name}, teacher {teacher.name} {teacher.sha256[:12]}")
    for passage in passages:
        report(passage, utterances, teacher.vocabulary)


def compute_posteriors(teacher: LocalTeacher, utterances: Sequence[Utterance]) -> tuple[list[Tensor], list[Tensor]]:
    """The teacher's own frames, and 20 ms frames made by listening twice."""
    own: list[Tensor] = []
    interleaved: list[Tensor] = []
    # Silence in front moves the frames' centres back: from 35 + 40 i ms to 12.5 + 40 i and to 32.5 + 40 i.
    silences = [0, *(samples(STUDENT_GRID.offset_ms - WAV2VEC2_GRID.centre_ms(frame)) for frame in (0, 1))]
    for begin in range(0, len(utterances), BATCH):
        waveforms = [read_utterance(utterance) for utterance in utterances[begin : begin + BATCH]]
        outputs = [
            run_teacher(teacher, [torch.nn.functional.pad(waveform, (silence, 0)) for waveform in waveforms])[0]
            for silence in silences
        ]
        for row in range(len(waveforms)):
            plain, first, second = (posteriors.log_probs[row, : int(posteriors.lens[row])] for posteriors in outputs)
            own.append(plain)
            both = min(len(first), len(second))
            pairs = torch.stack([first[:both], second[:both]], dim=1).flatten(0, 1)
            interleaved.append(torch.cat([pairs, first[both : both + 1]]))
    return own, interleaved


def samples(milliseconds: float) -> int:
    return round(milliseconds * SAMPLE_RATE / 1000)


def report(passage: Passage, utterances: Sequence[Utterance], vocabulary: Vocabulary) -> None:
    """Print a passage's block: what came in, then a row a strategy."""
    texts = {utterance.id: utterance.text or "" for utterance in utterances}
    before = [decode(frames, vocabulary) for frames in passage.frames]
    bridged = {
        strategy: [cross(passage, row, vocabulary, strategy) for row in range(len(before))] for strategy in STRATEGIES
    }
    possible = [
        row
        for row, utterance in enumerate(utterances)
        if enough_frames(
            min(passage.target_lens[row], len(passage.frames[row])), vocabulary.encode(texts[utterance.id])
        )
    ]
    print(f"\n{passage.name}: {sum(map(len, before))} tokens before; NLL over {len(possible)} utterances")
    print(f"{'':13} recall % deleted (doubled) substituted inserted  WER %  NLL  entropy  KL to own")
    rows: dict[str, list[Tensor]] = {"before": passage.frames} | {str(name): found for name, found in bridged.items()}
    for name, frames in rows.items():
        after = [decode(item, vocabulary) for item in frames]
        words = dict(zip(texts, (vocabulary.decode(tokens) for tokens in after), strict=True))
        likelihood = [nll(frames[row], vocabulary.encode(utterances[row].text or ""), vocabulary) for row in possible]
        characters = sum(len(vocabulary.encode(utterances[row].text or "")) for row in possible)
        spread = torch.cat([entropy(item) for item in frames]).mean()
        divergence = f"{kl(passage.own, frames):10.3f}" if passage.own is not None and name != "before" else f"{'':10}"
        print(
            f"{name:13} {tokens_kept(before, after)} {100 * score(texts, words, 'none').wer:6.1f} "
            f"{sum(likelihood) / max(characters, 1):5.2f} {float(spread):7.3f} {divergence}"
        )


def cross(passage: Passage, row: int, vocabulary: Vocabulary, strategy: Strategy) -> Tensor:
    """One utterance's posteriors on the target grid."""
    frames = passage.frames[row]
    posteriors = DensePosteriors(frames[None], torch.tensor([len(frames)]))
    lens = torch.tensor([passage.target_lens[row]])
    return resample(posteriors, passage.source, passage.target, lens, vocabulary.blank_id, strategy).log_probs[0]


def decode(frames: Tensor, vocabulary: Vocabulary) -> list[int]:
    return greedy(frames[None], torch.tensor([len(frames)]), vocabulary.blank_id)[0].tokens


def tokens_kept(before: list[list[int]], after: list[list[int]]) -> str:
    """Recall and edits of the tokens before, as columns."""
    texts = [[" ".join(map(str, tokens)) for tokens in side] for side in (before, after)]
    rows = [row for row in range(len(before)) if before[row]]
    result = jiwer.process_words([texts[0][row] for row in rows], [texts[1][row] for row in rows])
    doubled = 0
    for tokens, chunks in zip((before[row] for row in rows), result.alignments, strict=True):
        lost = [
            at for chunk in chunks if chunk.type == "delete" for at in range(chunk.ref_start_idx, chunk.ref_end_idx)
        ]
        doubled += sum(tokens[at] in (tokens[at - 1 : at] + tokens[at + 1 : at + 2]) for at in lost)
    recall = 100 * result.hits / max(sum(map(len, before)), 1)
    return f"{recall:8.2f} {result.deletions:7d} {doubled:9d} {result.substitutions:11d} {result.insertions:8d}"


def enough_frames(num_frames: int, tokens: list[int]) -> bool:
    """Return whether CTC can emit so many tokens, with a blank between equal ones."""
    return num_frames >= len(tokens) + sum(a == b for a, b in pairwise(tokens))


def nll(frames: Tensor, tokens: list[int], vocabulary: Vocabulary) -> float:
    lens = torch.tensor([len(frames)]), torch.tensor([len(tokens)])
    log_probs = frames.clamp_min(LOWEST)[:, None]
    return float(
        torch.nn.functional.ctc_loss(
            log_probs, torch.tensor([tokens]), *lens, blank=vocabulary.blank_id, reduction="sum"
        )
    )


def kl(own: list[Tensor], bridged: list[Tensor]) -> float:
    """KL(the teacher's own frames ‖ bridged), nats a frame."""
    terms = [dense_kl(ours[None], theirs.clamp_min(LOWEST)[None]) for ours, theirs in zip(own, bridged, strict=True)]
    return float(torch.cat([term.flatten() for term in terms]).mean())


STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

if __name__ == "__main__":
    main()
