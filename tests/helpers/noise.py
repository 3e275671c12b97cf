"""A small corpus of noise with quiet stretches; a module of its own, so that worker processes can write it too."""

from pathlib import Path

import numpy as np
import soundfile

from asr_kd.corpora.manifest import Utterance


def write_corpus(folder: Path, count: int = 9) -> list[Utterance]:
    """Noise of 0.3 to 1.1 s: loud in the middle third; not in the order of the ids."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    utterances = []
    for index in range(count):
        samples = random.uniform(-1, 1, int(16_000 * (0.3 + 0.1 * index))) * 0.01
        third = len(samples) // 3
        samples[third : 2 * third] *= 20
        path = folder / f"noise-{index}.wav"
        if not path.exists():  # other workers may be reading it
            soundfile.write(path, samples, 16_000)
        utterances.append(Utterance(f"u{(index * 5) % count:02d}", path, len(samples) / 16_000, "ab", "nobody"))
    return utterances
