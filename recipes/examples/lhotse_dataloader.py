"""Train a model of your own with stored soft targets and the losses of asr-kd, on lhotse's cuts and samplers.

    asr-kd run recipes/Synthetic/synthetic.yaml      # or any recipe: writes manifests/ and targets/teacher/
    python recipes/examples/lhotse_dataloader.py exp/synthetic --epochs 3

The program ends with a model in memory. Saving, a dev set and a learning-rate schedule are left out.
"""

import argparse
from pathlib import Path

import torch
from lhotse import CutSet, Recording, SupervisionSegment
from lhotse.dataset import DynamicBucketingSampler
from torch.nn.utils.rnn import pad_sequence

import asr_kd
from asr_kd.corpora.manifest import read_manifest
from asr_kd.features.fbank import fbank
from asr_kd.text.normalize import normalize
from asr_kd.text.vocabulary import Vocabulary

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("work_dir", type=Path, help="of a recipe that has run up to extract")
parser.add_argument("--epochs", type=int, default=3)
arguments = parser.parse_args()
torch.manual_seed(1)
vocabulary = Vocabulary.load(arguments.work_dir / "manifests" / "tokens.txt")
store = asr_kd.SoftTargetStore.open(arguments.work_dir / "targets" / "teacher", vocabulary, frame_shift_ms=40)


def cut(utterance):
    whole = Recording.from_file(utterance.audio, recording_id=utterance.id).to_cut()
    text = SupervisionSegment(utterance.id, utterance.id, 0.0, whole.duration, text=utterance.text)
    whole.supervisions = [text]
    return whole


class KdDataset(torch.utils.data.Dataset):
    def __getitem__(self, cuts: CutSet):
        features = [fbank(torch.from_numpy(cut.resample(16_000).load_audio()[0])) for cut in cuts]
        lens = torch.tensor([(len(item) - 7) // 4 + 1 for item in features])
        texts = [normalize(cut.supervisions[0].text, "librispeech") for cut in cuts]
        tokens = [torch.tensor(vocabulary.encode(text)) for text in texts]
        targets = asr_kd.collate_targets([store.read(cut.supervisions[0].id) for cut in cuts])
        padded = pad_sequence(tokens, batch_first=True), torch.tensor([len(t) for t in tokens])
        return pad_sequence(features, batch_first=True), lens, targets, *padded


cuts = CutSet.from_cuts(
    cut(u) for u in read_manifest(arguments.work_dir / "manifests" / "train.jsonl") if u.id in store
)
norm, rnn = torch.nn.LayerNorm(560), torch.nn.GRU(560, 256, batch_first=True)
head = torch.nn.Linear(256, len(vocabulary))
optimizer = torch.optim.AdamW(torch.nn.ModuleList([norm, rnn, head]).parameters(), lr=1e-3)
sampler = DynamicBucketingSampler(cuts, max_duration=20, num_buckets=2, shuffle=True)
for epoch in range(1, arguments.epochs + 1):
    sampler.set_epoch(epoch)
    for features, lens, targets, *tokens in torch.utils.data.DataLoader(KdDataset(), sampler=sampler, batch_size=None):
        log_probs = head(rnn(norm(features.unfold(1, 7, 4).flatten(2)))[0]).log_softmax(-1)  # a frame every 40 ms
        loss = asr_kd.distill_loss(log_probs, lens, targets, *tokens, blank_id=vocabulary.blank_id)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss:.3f}")
