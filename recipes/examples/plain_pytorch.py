"""Train a model of your own with stored soft targets and the losses of asr-kd, in plain PyTorch.

    asr-kd run recipes/Synthetic/synthetic.yaml      # or any recipe: writes manifests/ and targets/teacher/
    python recipes/examples/plain_pytorch.py exp/synthetic --epochs 3

The program ends with a model in memory. Saving, a dev set and a learning-rate schedule are left out.
"""

import argparse
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from asr_kd.corpora.manifest import read_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.features.fbank import fbank
from asr_kd.losses import DistillSettings, Objective, References, Shape, StudentOutput, Supervision
from asr_kd.targets import Store, collate
from asr_kd.text.normalize import normalize
from asr_kd.text.vocabulary import Vocabulary


class OwnModel(torch.nn.Module):
    """Any model with one frame every 40 ms: here seven 10 ms frames, stacked every fourth, and a GRU."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.norm, self.rnn = torch.nn.LayerNorm(7 * 80), torch.nn.GRU(7 * 80, 256, batch_first=True)
        self.head = torch.nn.Linear(256, vocab_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        stacked = features.unfold(1, 7, 4).flatten(2)  # [B, T, 80] → [B, T', 560]
        return self.head(self.rnn(self.norm(stacked))[0]).log_softmax(-1)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("work_dir", type=Path, help="of a recipe that has run up to extract")
parser.add_argument("--epochs", type=int, default=3)
arguments = parser.parse_args()
torch.manual_seed(1)
vocabulary = Vocabulary.load(arguments.work_dir / "manifests" / "tokens.txt")
store = Store.open(arguments.work_dir / "targets" / "teacher", vocabulary=vocabulary, frame_shift_ms=40)
utterances = [u for u in read_manifest(arguments.work_dir / "manifests" / "train.jsonl") if u.id in store]
model = OwnModel(len(vocabulary))
objective = Objective.from_settings(DistillSettings(kd_weight=0.5), Shape(vocabulary.blank_id))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(1, arguments.epochs + 1):
    for batch in torch.utils.data.DataLoader(utterances, batch_size=8, collate_fn=list):
        features = [fbank(read_utterance(u)) for u in batch]
        lens = torch.tensor([(len(item) - 7) // 4 + 1 for item in features])
        tokens = [torch.tensor(vocabulary.encode(normalize(u.text, "librispeech"))) for u in batch]
        references = References(pad_sequence(tokens, batch_first=True), torch.tensor([len(t) for t in tokens]))
        targets = collate([store.read(u.id, num_frames=int(n)) for u, n in zip(batch, lens, strict=True)])
        student = StudentOutput(model(pad_sequence(features, batch_first=True)), lens)
        losses = objective(student, Supervision(references, targets), lens.sum())
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {losses.total:.3f}", *(f"{name} {part:.3f}" for name, part in losses.parts.items()))
