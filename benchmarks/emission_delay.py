"""Emission delay of a student behind its teacher, from which `delay_frames` is chosen. Prints two tables.

    python benchmarks/emission_delay.py TEACHER_MODEL STUDENT_MODEL MANIFEST.jsonl [--chunks 2 4 8 16]

Measurements as in the report (asr_kd/evaluation/frame_measures.py): against forced alignment of the reference with the
teacher's posteriors, over tokens that both got right. The first table counts tokens by their delay in frames of 40 ms,
with the shift at which the posteriors are most alike; the second has a row for each chunk size. A model is a folder
`…/model` of a run.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from asr_kd.corpora.manifest import read_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.evaluation.frame_measures import frame_agreement, measure_delay, token_delays
from asr_kd.evaluation.open_systems import SystemPosteriors, bridged_to, open_system, posteriors_of
from asr_kd.evaluation.sweeps import in_context
from asr_kd.evaluation.system_outputs import spread
from asr_kd.models.layers import FRAME_SHIFT_MS
from asr_kd.models.settings import Context


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("student", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--chunks", type=int, nargs="*", default=[], help="frames; the left context stays")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    utterances = spread([u for u in read_manifest(arguments.manifest) if u.text], arguments.utterances)
    waveforms = [read_utterance(utterance) for utterance in utterances]
    references = [utterance.text or "" for utterance in utterances]
    student = open_system("student", "other", arguments.student)
    student_posteriors = required(posteriors_of(student))
    teacher = bridged_to(
        required(posteriors_of(open_system("teacher", "teacher", arguments.teacher))), student_posteriors
    )
    by_teacher = [teacher.log_probs(waveform) for waveform in waveforms]
    pairs = list(zip(by_teacher, map(student_posteriors.log_probs, waveforms), strict=True))
    print_counts(token_delays(references, teacher, student_posteriors, pairs))
    best = frame_agreement(pairs, student_posteriors.vocabulary.blank_id)["at_best_shift"]
    print(f"most alike at a shift of {best['shift_frames']} frames: KL {best['frame_kl']:.3f} nats a frame")
    for chunk_frames in arguments.chunks:
        if student_posteriors.context is None:
            raise SystemExit("the student is a full-context model: it has no chunks")
        context = Context(chunk_frames, student_posteriors.context.left_context_frames)
        variant = required(posteriors_of(in_context(student, context)))
        pairs = list(zip(by_teacher, map(variant.log_probs, waveforms), strict=True))
        print_chunk(chunk_frames, measure_delay(references, teacher, variant, pairs))


def required(posteriors: SystemPosteriors | None) -> SystemPosteriors:
    if posteriors is None:
        raise SystemExit("a system that gives text only has no frames")
    return posteriors


def print_counts(delays: dict[str, Any]) -> None:
    counts = Counter(round(late_ms / FRAME_SHIFT_MS) for late_ms in delays["emission"]["tokens"])
    total = sum(counts.values())
    if not total:
        raise SystemExit("there is no token that both models got right: nothing to compare")
    print(f"{total} of {delays['reference_tokens']} tokens right in both, {delays['utterances']} utterances")
    print(f"{'frames':>6} {'ms':>5} {'tokens':>7} {'share':>7} {'up to here':>10}")
    below = 0
    for frames, count in sorted(counts.items()):
        below += count
        print(f"{frames:6d} {FRAME_SHIFT_MS * frames:5d} {count:7d} {count / total:7.1%} {below / total:10.1%}")


def print_chunk(chunk_frames: int, found: dict[str, Any]) -> None:
    cells = [f"chunk of {chunk_frames * FRAME_SHIFT_MS} ms"]
    for kind in ("emission", "available"):
        for part, numbers in found[kind].items():
            cells.append(f"{kind} {part} {numbers['median_ms']} ({numbers['p90_ms']}) ms")
    print("; ".join(cells))


if __name__ == "__main__":
    main()
