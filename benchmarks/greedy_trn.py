"""Greedy transcripts of model folders or bundles on a manifest, as trn files for `asr-kd score`.

    python benchmarks/greedy_trn.py exp/an4-warm/manifests/devtest.jsonl exp/an4-warm/students/*/model --out trn
    asr-kd score trn/reference.trn labels=trn/labels-alone.trn both=trn/representation-consistency.trn

A model folder called `model` gives its parent's name to the file.
"""

import argparse
from pathlib import Path

import torch

from asr_kd.corpora.manifest import read_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.runtime.recognizer import open_recognizer

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    utterances = read_manifest(arguments.manifest)
    names = [f"({utterance.speaker}-{utterance.id})" for utterance in utterances]
    write(arguments.out / "reference.trn", [utterance.text or "" for utterance in utterances], names)
    waveforms = [read_utterance(utterance) for utterance in utterances]
    for folder in arguments.models:
        recognizer = open_recognizer(folder)
        texts = [
            text for at in range(0, len(waveforms), BATCH) for text in recognizer.transcribe(waveforms[at : at + BATCH])
        ]
        write(arguments.out / f"{folder.parent.name if folder.name == 'model' else folder.name}.trn", texts, names)


def write(path: Path, texts: list[str], names: list[str]) -> None:
    path.write_text("".join(f"{text} {name}\n" for text, name in zip(texts, names, strict=True)), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
