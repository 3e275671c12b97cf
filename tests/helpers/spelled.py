"""Posteriors that spell a text at chosen frames: systems whose delay, agreement and transcripts are known."""

from dataclasses import dataclass

import torch

from asr_kd.evaluation.open_systems import SystemPosteriors
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.targets.bridge import STUDENT_GRID
from asr_kd.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("<blk>", "▁", *"abcdefghijklmnopqrstuvwxyz"))
CERTAIN = 12.0


def spelled(tokens, frames, num_frames, size=28):
    """Log-probabilities [T, V]: each token at its frame, blank (0) elsewhere; about 1e-4 for everything else."""
    logits = torch.zeros(num_frames, size)
    logits[:, 0] = CERTAIN
    for token, frame in zip(tokens, frames, strict=True):
        logits[frame, 0] = 0.0
        logits[frame, token] = CERTAIN
    return logits.log_softmax(-1)


def posteriors_source(context=None):
    """Posteriors of a system whose "waveforms" are its log-probabilities."""
    return SystemPosteriors(lambda waveform: waveform, VOCABULARY, STUDENT_GRID, context)


@dataclass
class SpellingTeacher:
    """A teacher, or student, that spells known texts, told apart by their number of samples, from frame `late` on: a
    token every second frame of 40 ms, then blank."""

    texts: dict
    late: int = 0
    name: str = "spelling"
    sha256: str = "d" * 64
    frame_shift_ms: float = 40.0
    frame_offset_ms: float = 35.0
    vocabulary: Vocabulary = VOCABULARY
    num_parameters: int = 1000
    num_bytes: int = 4000

    @property
    def features(self):
        return {"kind": "waveform"}

    def log_probs(self, waveforms, sample_lens):
        rows = []
        for samples in sample_lens.tolist():
            tokens = self.vocabulary.encode(self.texts.get(samples, ""))
            frames = [self.late + 2 * place for place in range(len(tokens))]
            rows.append(spelled(tokens, frames, max(samples // 640, 1) + 2 * len(tokens) + 10, len(self.vocabulary)))
        lens = torch.tensor([len(row) for row in rows])
        return DensePosteriors(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lens)
