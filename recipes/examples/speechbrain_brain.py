"""Train a model of your own with stored soft targets and the losses of asr-kd, in a speechbrain Brain.

    asr-kd run recipes/Synthetic/synthetic.yaml      # or any recipe: writes manifests/ and targets/teacher/
    python recipes/examples/speechbrain_brain.py exp/synthetic --epochs 3

The program ends with a model in memory. Saving, a dev set and a learning-rate schedule are left out.
"""

import argparse
from pathlib import Path

import speechbrain as sb
import torch
from torch.nn.utils.rnn import pad_sequence

from asr_kd.corpora.manifest import Utterance, read_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.features.fbank import fbank
from asr_kd.losses import DistillSettings, Objective, References, Shape, StudentOutput, Supervision
from asr_kd.targets import Store, collate
from asr_kd.text.normalize import normalize
from asr_kd.text.vocabulary import Vocabulary


class Student(sb.Brain):
    def compute_forward(self, batch, stage):
        stacked = batch[0].to(self.device).unfold(1, 7, 4).flatten(2)  # 7 frames of 10 ms, every 4th: [B, T', 560]
        return self.modules.head(self.modules.rnn(self.modules.norm(stacked))[0]).log_softmax(-1)

    def compute_objectives(self, predictions, batch, stage):
        student = StudentOutput(predictions.cpu(), batch[1])
        return self.modules.objective(student, Supervision(*batch[2:]), batch[1].sum()).total

    def on_stage_end(self, stage, stage_loss, epoch=None):
        print(f"epoch {epoch}: loss {stage_loss:.3f}")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("work_dir", type=Path, help="of a recipe that has run up to extract")
parser.add_argument("--epochs", type=int, default=3)
arguments = parser.parse_args()
torch.manual_seed(1)
vocabulary = Vocabulary.load(arguments.work_dir / "manifests" / "tokens.txt")
store = Store.open(arguments.work_dir / "targets" / "teacher", vocabulary=vocabulary, frame_shift_ms=40)


def collate_fn(batch: list[Utterance]):
    features = [fbank(read_utterance(u)) for u in batch]
    lens = torch.tensor([(len(item) - 7) // 4 + 1 for item in features])
    tokens = [torch.tensor(vocabulary.encode(normalize(u.text, "librispeech"))) for u in batch]
    references = References(pad_sequence(tokens, batch_first=True), torch.tensor([len(t) for t in tokens]))
    return pad_sequence(features, batch_first=True), lens, references, collate([store.read(u.id) for u in batch])


own = {"norm": torch.nn.LayerNorm(560), "rnn": torch.nn.GRU(560, 256, batch_first=True)}
own["head"] = torch.nn.Linear(256, len(vocabulary))
own["objective"] = Objective.from_settings(DistillSettings(kd_weight=0.5), Shape(vocabulary.blank_id))
brain = Student(own, lambda parameters: torch.optim.AdamW(parameters, lr=1e-3), run_opts={"noprogressbar": True})
utterances = [u for u in read_manifest(arguments.work_dir / "manifests" / "train.jsonl") if u.id in store]
brain.fit(range(1, arguments.epochs + 1), torch.utils.data.DataLoader(utterances, batch_size=8, collate_fn=collate_fn))
