"""How much later one model says its tokens than another: what `delay_frames` should be. Prints a table.

    python benchmarks/emission_delay.py TEACHER_MODEL STUDENT_MODEL MANIFEST.jsonl [--silence-seconds 0.6]

Frames are 40 ms. Only utterances for which both models say the same tokens count. A token's delay is the frame of its
first emission by the student less that by the teacher. A model is a folder `…/model` of a run.
"""

import argparse
from collections import Counter
from pathlib import Path

import torch

from asr_kd.audio import SAMPLE_RATE
from asr_kd.corpora.manifest import read_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.runtime.recognizer import open_recognizer

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("student", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--silence-seconds", type=float, default=0.6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    teacher, student = open_recognizer(arguments.teacher), open_recognizer(arguments.student)
    utterances = read_manifest(arguments.manifest)
    silence = round(arguments.silence_seconds * SAMPLE_RATE)
    delays: Counter[int] = Counter()
    agreed = 0
    for begin in range(0, len(utterances), BATCH):
        waveforms = [read_utterance(u) for u in utterances[begin : begin + BATCH]]
        waveforms = [torch.nn.functional.pad(waveform, (0, silence)) for waveform in waveforms]
        for ours, theirs in zip(student.align(waveforms), teacher.align(waveforms), strict=True):
            if ours.tokens == theirs.tokens and ours.tokens:
                agreed += 1
                delays.update(late - early for late, early in zip(ours.frames, theirs.frames, strict=True))
    total = sum(delays.values())
    if not total:
        raise SystemExit("the two models agree on no utterance: nothing to compare")
    print(f"{agreed} of {len(utterances)} utterances agree; {total} tokens")
    print(f"{'frames':>6} {'ms':>5} {'tokens':>7} {'share':>7} {'up to here':>10}")
    below = 0
    for frames, count in sorted(delays.items()):
        below += count
        print(f"{frames:6d} {40 * frames:5d} {count:7d} {count / total:7.1%} {below / total:10.1%}")


if __name__ == "__main__":
    main()
