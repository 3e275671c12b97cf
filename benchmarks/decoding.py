"""Utterances a second of CPU: greedy, our beam search, torchaudio's decoder, speechbrain's and pyctcdecode's.

    asr-kd lm build TRANSCRIPTS --out lm.arpa
    python benchmarks/decoding.py MODEL MANIFEST.jsonl --lm lm.arpa --lexicon lm.words.txt [--beam 25] [--rounds 5]

One run, one thread, the same posteriors, utterance by utterance, the same n-gram, words and beam width; all drop
prefixes 10 nats below the best (the default of all but torchaudio's, which is given it), speechbrain and pyctcdecode
also tokens below e⁻⁵ by their own default. The order changes from round to round, and medians are printed. MODEL is a
folder `…/model` of a run. The last two need kenlm's module, which is built from source where there is no wheel:

    pip install 'asr-kd[peers]' && pip install --no-deps pyctcdecode  # requires numpy < 2, but runs with 2
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from asr_kd.corpora.manifest import read_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.decoding.base import text_of
from asr_kd.decoding.beam import open_decoder
from asr_kd.decoding.settings import DecodingSettings
from asr_kd.runtime.recognizer import open_recognizer
from asr_kd.scoring.wer import score
from asr_kd.text.vocabulary import WORD_SEPARATOR, Vocabulary

Decode = Callable[[Tensor], str]
"""Posteriors [T, V] of an utterance → its text."""

LM_WEIGHT, WORD_SCORE = 0.5, 0.5
LN10 = 2.302585  # pyctcdecode's weight is of natural logarithms


def ours(vocabulary: Vocabulary, settings: DecodingSettings) -> Decode:
    """What `asr-kd evaluate` runs."""
    decoder = open_decoder(vocabulary, settings)

    def decode(frames: Tensor) -> str:
        [nbest] = decoder.decode(frames.unsqueeze(0), torch.tensor([len(frames)]))
        return text_of(nbest[0], vocabulary)

    return decode


def words_of(settings: DecodingSettings) -> list[str]:
    """Of the lexicon."""
    assert settings.lexicon is not None
    return settings.lexicon.read_text(encoding="utf-8").split()


def torchaudios(vocabulary: Vocabulary, settings: DecodingSettings) -> Decode:
    """`torchaudio.models.decoder.ctc_decoder` as its documentation calls it."""
    from torchaudio.models.decoder import ctc_decoder

    words = words_of(settings)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.writelines(f"{word} {' '.join(word)} {WORD_SEPARATOR}\n" for word in words)
        file.flush()
        decoder = ctc_decoder(
            lexicon=file.name,
            tokens=list(vocabulary.symbols),
            lm=str(settings.lm),
            beam_size=settings.beam_size,
            beam_threshold=settings.beam_threshold,
            beam_size_token=min(settings.beam_tokens, len(vocabulary)),
            lm_weight=LM_WEIGHT,
            word_score=WORD_SCORE,
            log_add=True,
            blank_token=vocabulary.symbols[vocabulary.blank_id],
            sil_token=WORD_SEPARATOR,
        )
    return lambda frames: " ".join(decoder(frames.unsqueeze(0), torch.tensor([len(frames)]))[0][0].words)


def speechbrains(vocabulary: Vocabulary, settings: DecodingSettings) -> Decode:
    """`speechbrain.decoders.CTCBeamSearcher`."""
    from speechbrain.decoders.ctc import CTCBeamSearcher

    searcher = CTCBeamSearcher(
        blank_index=vocabulary.blank_id,
        vocab_list=[" " if symbol == WORD_SEPARATOR else symbol for symbol in vocabulary.symbols],
        kenlm_model_path=str(settings.lm),
        alpha=LM_WEIGHT / LN10,
        beta=WORD_SCORE,
        beam_size=settings.beam_size,
    )
    return lambda frames: searcher(frames.unsqueeze(0), torch.ones(1))[0][0].text


def pyctcdecodes(vocabulary: Vocabulary, settings: DecodingSettings) -> Decode:
    """pyctcdecode."""
    from pyctcdecode import build_ctcdecoder

    labels = ["" if index == vocabulary.blank_id else symbol for index, symbol in enumerate(vocabulary.symbols)]
    decoder = build_ctcdecoder(
        [" " if label == WORD_SEPARATOR else label for label in labels],
        str(settings.lm),
        words_of(settings),
        alpha=LM_WEIGHT / LN10,
        beta=WORD_SCORE,
    )
    return lambda frames: decoder.decode(frames.numpy(), beam_width=settings.beam_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--lm", type=Path, required=True)
    parser.add_argument("--lexicon", type=Path, required=True)
    parser.add_argument("--beam", type=int, default=DecodingSettings().beam_size)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    vocabulary, posteriors, references = compute_posteriors(arguments.model, arguments.manifest)
    settings = DecodingSettings(
        kind="beam",
        lm=arguments.lm,
        lexicon=arguments.lexicon,
        lm_weight=LM_WEIGHT,
        word_score=WORD_SCORE,
        beam_size=arguments.beam,
    )
    decoders: dict[str, Decode] = {}
    for name, build in {
        "greedy": lambda: ours(vocabulary, DecodingSettings()),
        "our beam": lambda: ours(vocabulary, settings),
        "torchaudio": lambda: torchaudios(vocabulary, settings),
        "speechbrain": lambda: speechbrains(vocabulary, settings),
        "pyctcdecode": lambda: pyctcdecodes(vocabulary, settings),
    }.items():
        try:
            decoders[name] = build()
        except ImportError as error:
            print(f"{name}: not here ({error})")
    seconds, texts = measure(decoders, posteriors, arguments.rounds)
    report(seconds, texts, references)


def compute_posteriors(model: Path, manifest: Path) -> tuple[Vocabulary, dict[str, Tensor], dict[str, str]]:
    """Return posteriors [T, V] of each utterance, and its transcript."""
    recognizer = open_recognizer(model)
    posteriors, references = {}, {}
    for utterance in read_manifest(manifest):
        output = recognizer.log_probs([read_utterance(utterance)])
        posteriors[utterance.id] = output.log_probs[0].contiguous()
        references[utterance.id] = utterance.text or ""
    return recognizer.vocabulary, posteriors, references


def measure(
    decoders: dict[str, Decode], posteriors: dict[str, Tensor], rounds: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, str]]]:
    """Return CPU seconds of each decoder in each round, and its transcripts; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    texts: dict[str, dict[str, str]] = {}
    for turn in range(rounds + 1):
        for name in random.Random(turn).sample(list(decoders), len(decoders)):
            begin = time.process_time()
            texts[name] = {key: decoders[name](frames) for key, frames in posteriors.items()}
            seconds[name] += [time.process_time() - begin] if turn else []
    return seconds, texts


def report(seconds: dict[str, list[float]], texts: dict[str, dict[str, str]], references: dict[str, str]) -> None:
    """A table; the ratios are medians over rounds of times taken in the same round."""
    print(f"{len(references)} utterances; medians of {len(seconds['greedy'])} rounds (lowest – highest)")
    print(f"{'decoder':<12} {'utterances / CPU s':>28} {'our beam is':>12} {'WER':>8}")
    for name, times in seconds.items():
        rates = [len(references) / taken for taken in times]
        ratio = median(theirs / own for theirs, own in zip(times, seconds["our beam"], strict=True))
        wer = score(references, texts[name], "librispeech").wer
        spread = f"{median(rates):,.0f} ({min(rates):,.0f} – {max(rates):,.0f})"
        print(f"{name:<12} {spread:>28} {ratio:>10.2f} × {100 * wer:>7.2f}%")


if __name__ == "__main__":
    main()
