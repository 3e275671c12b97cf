"""WER of the sherpa-onnx client on a bundle: greedy search, and with a decoding graph of `asr-kd lm graph`.

    asr-kd lm build WORK_DIR/manifests/train.jsonl --out lm.arpa
    asr-kd lm graph lm.words.txt BUNDLE --lm lm.arpa --out lm.fst
    python benchmarks/client_graph.py BUNDLE MANIFEST.jsonl lm.fst [MORE.fst ...]

One client process each, 32-bit weights, streams of 200 ms packets. A graph outputs words of its list only: the share of
reference words outside it is a lower bound of the WER.
"""

import argparse
import time
from pathlib import Path

import torch

from asr_kd.corpora.manifest import read_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.export.client_parity import client_input
from asr_kd.export.sherpa_client import run_client
from asr_kd.runtime.bundle import MODEL, TOKENS, read_bundle
from asr_kd.scoring.wer import score


def main() -> None:
    """Print a row for each search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("graphs", type=Path, nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bundle = read_bundle(arguments.bundle)
    utterances = read_manifest(arguments.manifest)
    references = {utterance.id: utterance.text or "" for utterance in utterances}
    waveforms = [client_input(bundle, read_utterance(utterance)).numpy() for utterance in utterances]
    seconds = sum(len(waveform) for waveform in waveforms) / 16_000
    for graph in (None, *arguments.graphs):
        start = time.perf_counter()
        results = run_client(bundle.folder / MODEL, bundle.folder / TOKENS, waveforms, graph=graph)
        took = time.perf_counter() - start
        hypotheses = {one.id: result.text for one, result in zip(utterances, results, strict=True)}
        words = score(references, hypotheses, "librispeech").words
        counts = f"{words.substitutions} / {words.deletions} / {words.insertions}"
        name = graph.name if graph else "greedy"
        print(f"{name:24} WER {100 * words.rate:5.2f} %  S / D / I {counts}  {took / seconds:.4f} RTF", flush=True)


if __name__ == "__main__":
    main()
