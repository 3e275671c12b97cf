"""torchaudio's beam search decoder and KenLM, by flashlight-text: the only file that asks for them (extra ``lm``).

Knows tokens and words by number; nothing of vocabularies. Tokens are named by their ids.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from asr_kd.decoding.hotwords import Hotwords
from asr_kd.decoding.lexicon import Lexicon
from asr_kd.errors import LanguageModelError, MissingExtraError
from asr_kd.text.kneser_ney import UNKNOWN

NONSENSE = "<no-such-word>"
"""Stands for every word that a language model does not know."""

FIRST_MARK = -2
"""Below KenLM's own mark of a sentence's end, −1, among the children of its states."""


class SearchOptions(NamedTuple):
    """What flashlight calls by these names."""

    beam_size: int
    beam_threshold: float
    beam_size_token: int
    lm_weight: float
    word_score: float
    log_add: bool


def open_factory() -> Callable[..., Any]:
    """torchaudio's `ctc_decoder`.

    Raises:
        MissingExtraError: flashlight-text is not installed.
    """
    try:
        from torchaudio.models.decoder import ctc_decoder
    except (ImportError, RuntimeError) as error:  # torchaudio raises the second where flashlight is missing
        raise MissingExtraError("flashlight-text", "lm") from error
    return ctc_decoder


def open_kenlm(path: Path, entries: Sequence[str]) -> Any:
    """A KenLM n-gram whose words are numbered as `entries`.

    Args:
        path: ARPA, packed with gzip or not, or KenLM's binary format.
        entries: words or symbols, by number.

    Raises:
        LanguageModelError: no such file, not an n-gram model, or it knows none of the entries.
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
    dictionary = Dictionary([*entries, UNKNOWN, NONSENSE])
    dictionary.set_default_index(len(entries))
    try:
        with _quiet():
            lm = KenLM(str(path), dictionary)
    except RuntimeError as error:
        reason = " ".join(str(error).split("Exception", 1)[-1].split())[:200]
        raise LanguageModelError(
            f"KenLM cannot read it ({reason})", where=path, expected="ARPA, .arpa.gz or KenLM's binary format"
        ) from error
    if not knows_any(lm, len(entries)):
        raise LanguageModelError(
            f"it knows none of {', '.join(map(repr, entries[:5]))} …",
            where=path,
            expected="words of the lexicon with one, symbols of tokens.txt without",
            remedy="Name a lexicon for a model over words; build one over tokens with `asr-kd lm build --unit token`",
        )
    return lm


def knows_any(lm: Any, entries: int) -> bool:
    """Whether any entry is likelier, or less likely, than a word that the model does not know."""
    start = lm.start(False)
    unknown = lm.score(start, entries + 1)[1]
    return any(lm.score(start, index)[1] != unknown for index in range(entries))


def with_hotwords(lm: Any, weight: float, hotwords: Hotwords, texts: Sequence[str]) -> Any:
    """A model that adds what hotwords earn; use it with weight 1.

    The automaton's state is kept as a mark among the children of the model's own states, so that it lives exactly as
    long as they do: nothing grows with a stream.

    Args:
        lm: a KenLM n-gram, or None.
        weight: of its scores.
        hotwords: the automaton.
        texts: what each entry writes, by number.
    """
    open_factory()
    from flashlight.lib.text.decoder import LM, ZeroLM

    class WithHotwords(LM):
        def __init__(self) -> None:
            LM.__init__(self)
            self.inner = ZeroLM() if lm is None else lm
            self.expanded: tuple[Any, int] = (None, 0)  # the state that was looked at last, and its mark

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
    tokens: int, blank_id: int, silence_id: int, options: SearchOptions, lexicon: Lexicon | None, lm: Any
) -> Any:
    """torchaudio's decoder.

    Args:
        tokens: how many there are.
        blank_id: the CTC blank.
        silence_id: what may stand between words; without a lexicon, what `word_score` counts.
        options: of the search.
        lexicon: the words that may be said; None allows every sequence of tokens.
        lm: as `open_kenlm` or `with_hotwords` gives it, its entries the lexicon's words or the tokens; or None.
    """
    names = [str(token) for token in range(tokens)]
    arguments = {
        **options._asdict(),
        "tokens": names,
        "blank_token": names[blank_id],
        "sil_token": names[silence_id],
        "nbest": options.beam_size,
        "lm": lm,
    }
    if lexicon is None:
        arguments["sil_score"] = arguments.pop("word_score") if silence_id != blank_id else 0.0
        arguments.pop("word_score", None)
        return open_factory()(lexicon=None, **arguments)
    with tempfile.TemporaryDirectory() as folder:
        spelled, words = Path(folder, "lexicon.txt"), Path(folder, "words.txt")
        spelled.write_text("".join(lexicon.lines()), encoding="utf-8")
        # By this list the words are numbered; flashlight's own order would be another.
        words.write_text("".join(f"{word}\n" for word in [*lexicon.spellings, UNKNOWN]), encoding="utf-8")
        return open_factory()(lexicon=str(spelled), lm_dict=str(words), **arguments)


@contextmanager
def _quiet() -> Iterator[None]:
    """KenLM draws its progress on the process' standard error."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
