"""torchaudio's beam search decoder and KenLM, through flashlight-text (extra ``lm``). Only this file imports them.

Tokens and words are numbered; tokens are named by their ids.

Shapes: B utterances, T frames, V vocabulary.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from asr_kd.decoding.lexicon import Hotwords, Lexicon
from asr_kd.errors import LanguageModelError, MissingExtraError
from asr_kd.posteriors.types import LOWEST_LOG_PROB
from asr_kd.text.kneser_ney import UNKNOWN
from asr_kd.text.vocabulary import WORD_SEPARATOR

NO_SUCH_WORD = "<no-such-word>"
"""Stands for every word outside a language model."""

FIRST_MARK = -2
"""Key below −1, which KenLM uses for the end of a sentence among the children of its states."""


def open_factory() -> Callable[..., Any]:
    """Return torchaudio's `ctc_decoder`.

    Raises:
        MissingExtraError: flashlight-text is not installed.
    """
    try:
        from torchaudio.models.decoder import ctc_decoder
    except (ImportError, RuntimeError) as error:  # torchaudio raises the second where flashlight is missing
        raise MissingExtraError("flashlight-text", "lm") from error
    return ctc_decoder


def open_kenlm(path: Path, entries: Sequence[str]) -> Any:
    """Open a KenLM n-gram model with its words numbered as `entries`.

    Args:
        path: ARPA, packed with gzip or not, or KenLM's binary format.
        entries: words or symbols, by number.

    Raises:
        LanguageModelError: no such file, not an n-gram model, or it holds none of the entries.
        MissingExtraError: flashlight-text is not installed.
    """
    open_factory()
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    if not path.is_file():
        raise LanguageModelError(
            "no such file",
            where=path,
            expected="an n-gram model",
            remedy="Build one with `asr-kd lm build`, or name it",
        )
    names = [*entries, *([] if UNKNOWN in entries else [UNKNOWN]), NO_SUCH_WORD]
    dictionary, outside = Dictionary(names), len(names) - 1
    dictionary.set_default_index(names.index(UNKNOWN))
    try:
        with _quiet():
            lm = KenLM(str(path), dictionary)
    except RuntimeError as error:
        reason = " ".join(str(error).split("Exception", 1)[-1].split())[:200]
        raise LanguageModelError(
            f"KenLM cannot read it ({reason})", where=path, expected="ARPA, .arpa.gz or KenLM's binary format"
        ) from error
    # Letters alone may be words of a model over words, "A" and "I": symbols are told from words by the separator.
    telling = [index for index, entry in enumerate(entries) if entry.startswith(WORD_SEPARATOR)] or range(len(entries))
    start = lm.start(False)
    if all(lm.score(start, index)[1] == lm.score(start, outside)[1] for index in telling):
        raise LanguageModelError(
            f"it holds none of {', '.join(repr(entries[index]) for index in telling[:5])} …",
            where=path,
            expected="words of the lexicon with one, symbols of tokens.txt without",
            remedy="Name a lexicon for a model over words; build one over tokens with `asr-kd lm build --unit token`",
        )
    return lm


def with_hotwords(lm: Any, weight: float, hotwords: Hotwords, texts: Sequence[str]) -> Any:
    """Wrap a language model so that it adds the scores of hotwords; use the result with weight 1.

    The automaton's state is stored as a mark among the children of the model's own states and is freed with them, so
    memory does not grow with a stream.

    Args:
        lm: a KenLM n-gram, or None.
        weight: factor of its scores.
        texts: text of each entry, by number.
    """
    open_factory()
    from flashlight.lib.text.decoder import LM, ZeroLM

    class WithHotwords(LM):
        def __init__(self) -> None:
            LM.__init__(self)
            self.inner = ZeroLM() if lm is None else lm
            self.expanded: tuple[Any, int] = (None, 0)  # the last state, and its mark

        def start(self, start_with_nothing: bool) -> Any:
            state = self.inner.start(start_with_nothing)
            state.child(FIRST_MARK - hotwords.start)
            return state

        def score(self, state: Any, index: int) -> tuple[Any, float]:
            if self.expanded[0] is not state:
                self.expanded = state, _marked(state)
            following, score = self.inner.score(state, index)
            after, added = hotwords.advance(self.expanded[1], texts[index] if index < len(texts) else "")
            following.child(FIRST_MARK - after)
            return following, weight * score + added

        def finish(self, state: Any) -> tuple[Any, float]:
            following, score = self.inner.finish(state)
            return following, weight * score + hotwords.finish(_marked(state))

    return WithHotwords()


def _marked(state: Any) -> int:
    return next(FIRST_MARK - key for key in state.children if key <= FIRST_MARK)


def open_search(
    tokens: int, blank_id: int, silence_id: int, options: Mapping[str, float], lexicon: Lexicon | None, lm: Any
) -> Any:
    """Return torchaudio's decoder.

    Args:
        options: beam_size, beam_threshold, beam_size_token, lm_weight and word_score, under flashlight's names.
        silence_id: token that may stand between words; without a lexicon, the one that `word_score` counts.
        lexicon: allowed words; None allows every sequence of tokens.
        lm: result of `open_kenlm` or `with_hotwords`, with the lexicon's words or the tokens as entries; or None.
    """
    names = [str(token) for token in range(tokens)]
    arguments = {
        **options,
        "log_add": True,  # sum over all alignments of a prefix
        "tokens": names,
        "blank_token": names[blank_id],
        "sil_token": names[silence_id],
        "nbest": options["beam_size"],
        "lm": lm,
    }
    if lexicon is None:
        arguments["sil_score"] = arguments.pop("word_score") if silence_id != blank_id else 0.0
        arguments.pop("word_score", None)
        return open_factory()(lexicon=None, **arguments)
    with tempfile.TemporaryDirectory() as folder:
        spelled, words = Path(folder, "lexicon.txt"), Path(folder, "words.txt")
        spelled.write_text("".join(lexicon.lines()), encoding="utf-8")
        # This list numbers the words; flashlight's own order is different.
        words.write_text("".join(f"{word}\n" for word in [*lexicon.spellings, UNKNOWN]), encoding="utf-8")
        return open_factory()(lexicon=str(spelled), lm_dict=str(words), **arguments)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence KenLM, which writes its progress to the standard error of the process."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


TOKENS_A_FRAME = 40
"""Most likely tokens of a frame that the search extends prefixes with."""


class ScoredTokens(NamedTuple):
    """One hypothesis."""

    tokens: list[int]
    score: float  # log-probability, natural


class NbestDecoder:
    """Prefix beam search without a language model over posteriors of one vocabulary.

    Scores are log-probabilities of token sequences, summed over all alignments inside the beam (Graves & Jaitly 2014;
    Hannun 2014); with a beam wide enough they are exact.

    Args:
        separator_id: token of the space between words, where there is one. Hypotheses may differ only in separators at
            their ends; compare their words.
        beam_threshold: prefixes this much less likely than the best are dropped, nats.

    Raises:
        MissingExtraError: flashlight-text is not installed.
    """

    def __init__(
        self,
        vocab_size: int,
        blank_id: int,
        separator_id: int | None = None,
        beam_size: int = 20,
        beam_threshold: float = 25.0,
    ) -> None:
        silence_id = blank_id if separator_id is None else separator_id
        options = {"beam_size": beam_size, "beam_threshold": beam_threshold, "lm_weight": 0.0, "word_score": 0.0}
        options["beam_size_token"] = min(vocab_size, TOKENS_A_FRAME)
        self._decoder = open_search(vocab_size, blank_id, silence_id, options, None, None)

    def decode(self, log_probs: Tensor, lens: Tensor) -> list[list[ScoredTokens]]:
        """Return at most `beam_size` hypotheses of each utterance, the best first; none where posteriors are NaN.

        Args:
            log_probs: [B, T, V], any float type; −inf is the logarithm of 0.
            lens: frames of each utterance, [B].
        """
        on_cpu = log_probs.detach().float().clamp_min(LOWEST_LOG_PROB).cpu().contiguous()
        found = self._decoder(on_cpu, lens.cpu())
        return [[ScoredTokens(item.tokens.tolist(), float(item.score)) for item in items] for items in found]
