"""Prefix beam search with a KenLM n-gram model, a lexicon and hotwords, of whole utterances and of streams.

The search is torchaudio's (flashlight): Graves & Jaitly 2014, Collobert et al. 2016. A stream is searched in constant
memory: frames on which all prefixes agree are settled and dropped. For every way to cut an utterance into chunks the
result is that of the search over the whole utterance.

Shapes: B utterances, T frames, V vocabulary.
"""

import logging
import math
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
from torch import Tensor

from asr_kd.decoding.base import NOTHING, Collapsed, Decoder, Hypothesis, distinct
from asr_kd.decoding.flashlight import open_kenlm, open_search, with_hotwords
from asr_kd.decoding.greedy import GreedyDecoder
from asr_kd.decoding.lexicon import Hotwords, Lexicon, build_lexicon, read_words, separator_of, written_hotword
from asr_kd.decoding.settings import DEFAULT_LM_WEIGHT, GREEDY, DecodingSettings
from asr_kd.posteriors.types import LOWEST_LOG_PROB
from asr_kd.text.vocabulary import WORD_SEPARATOR, Vocabulary

_log = logging.getLogger(__name__)

LONGEST_AT_ONCE_FRAMES = 1_500
"""Longer utterances (one minute) are decoded as a stream, in constant memory."""

SETTLE_FRAMES = 250
"""Frames (ten seconds) between two looks for settled frames."""

LONGEST_UNSETTLED_FRAMES = 1_500
"""Frames (one minute) after which the best prefix is settled although others are left."""


class BeamSearch:
    """Beam search over posteriors of one vocabulary. All its streams share one language model.

    Words of the lexicon that the vocabulary cannot spell are left out, and counted in a warning.

    Raises:
        LanguageModelError: the LM or lexicon cannot be read, or does not fit the vocabulary; or a hotword holds
            characters outside it.
        MissingExtraError: flashlight-text is not installed.

    Attributes:
        lexicon: allowed words; None allows every sequence of tokens.
    """

    def __init__(self, vocabulary: Vocabulary, settings: DecodingSettings) -> None:
        self.vocabulary = vocabulary
        hotwords = tuple(written_hotword(phrase, vocabulary) for phrase in settings.hotwords)
        self.settings = settings.model_copy(update={"hotwords": hotwords})
        self.lexicon: Lexicon | None = None
        if settings.lexicon is not None:
            words = [word for phrase in hotwords for word in phrase.split()]
            self.lexicon = build_lexicon([*read_words(settings.lexicon), *words], vocabulary, settings.lexicon)
            if left_out := self.lexicon.left_out:
                _log.warning("%s: the vocabulary cannot spell %d of its words, left out", settings.lexicon, left_out)
        entries = list(vocabulary.symbols) if self.lexicon is None else list(self.lexicon.spellings)
        self._entries = entries
        self._lm = None if settings.lm is None else open_kenlm(settings.lm, entries)
        self._separator = separator_of(vocabulary)
        self._apply_weights()

    def reweighted(self, lm_weight: float, word_score: float) -> "BeamSearch":
        """Return the same search with other weights; the language model and the spellings are shared."""
        other = copy(self)
        other.settings = self.settings.model_copy(update={"lm_weight": lm_weight, "word_score": word_score})
        other._apply_weights()
        return other

    def decode(self, log_probs: Tensor, lens: Tensor) -> list[list[Hypothesis]]:
        """Return at most `nbest` hypotheses of each utterance, the best first, each text once.

        Args:
            log_probs: [B, T, V], any float type; −inf is the logarithm of 0.
            lens: frames of each utterance, [B].
        """
        pairs = zip(log_probs, lens.tolist(), strict=True)
        return [self._whole.decode_whole(rows[:length]) for rows, length in pairs]

    def stream(self) -> "StreamingBeam":
        """Return a decoder of one stream, with its own search around the shared language model."""
        blank = self.vocabulary.blank_id
        silence = blank if self._separator is None else self._separator
        search = open_search(len(self.vocabulary), blank, silence, self._options, self.lexicon, self._scorer)
        words = None if self.lexicon is None else self._entries
        return StreamingBeam(search, self.vocabulary, self.settings, self.last_frame(), words)

    def last_frame(self) -> np.ndarray | None:
        """Return a frame [1, V] of the word separator, which ends the last word; None where words do not end in one."""
        if self.lexicon is None or not self.lexicon.ends_in_separator or self._separator is None:
            return None
        row = np.full((1, len(self.vocabulary)), LOWEST_LOG_PROB, dtype=np.float32)
        row[0, self._separator] = 0.0
        return row

    def _apply_weights(self) -> None:
        settings = self.settings
        weight = DEFAULT_LM_WEIGHT if settings.lm_weight is None else settings.lm_weight
        self._scorer = self._lm
        self._options = {
            "beam_size": settings.beam_size,
            "beam_threshold": settings.beam_threshold,
            "beam_size_token": min(settings.beam_tokens, len(self.vocabulary)),
            "lm_weight": weight,
            "word_score": settings.word_score or 0.0,
        }
        if settings.hotwords:
            texts = self._entries if self.lexicon is None else [word + WORD_SEPARATOR for word in self._entries]
            hotwords = Hotwords(settings.hotwords, settings.hotword_score)
            self._scorer = with_hotwords(self._lm, weight, hotwords, texts)
            self._options["lm_weight"] = 1.0
        self._whole = self.stream()


class StreamingBeam:
    """Decoder of one stream, with its own search.

    Args:
        search: torchaudio's decoder.
        last_frame: frame [1, V] that ends the last word, see `BeamSearch.last_frame`.
        words: words of the lexicon by number; None without one.

    Attributes:
        num_frames: frames decoded so far.
        trailing_blanks: frames at the end whose likeliest token is the blank.
    """

    def __init__(
        self,
        search: Any,
        vocabulary: Vocabulary,
        settings: DecodingSettings,
        last_frame: np.ndarray | None,
        words: Sequence[str] | None,
    ) -> None:
        self._search, self._vocabulary, self._blank_id = search, vocabulary, vocabulary.blank_id
        self._nbest, self._sure_blank = settings.nbest, settings.sure_blank
        self._last_frame, self._words = last_frame, words
        self.reset()

    def reset(self) -> None:
        self._search.decode_begin()
        self.num_frames = self.trailing_blanks = 0
        self._after_blank = False
        self._settled = Collapsed([], [], [], [])
        self._settled_words: list[str] = []
        self._settled_score = 0.0
        self._previous = self._blank_id  # token of the last settled frame
        self._frames: list[np.ndarray] = []  # searched frames [T, V] that are not settled
        self._numbers: list[int] = []  # their numbers in the stream
        self._new_frames = 0  # since the last look for settled frames
        self._results: list[Any] | None = None  # of an ended stream

    @property
    def pending_frames(self) -> int:
        """Frames that are not settled."""
        return len(self._numbers)

    def accept(self, log_probs: Tensor) -> None:
        """Decode the next frames, [T, V]; T may be 0.

        Raises:
            ValueError: the stream has ended.
        """
        if self._results is not None:
            raise ValueError("this stream has ended; call reset() or open another one")
        frames = _clamped(log_probs)
        for start in range(0, len(frames), SETTLE_FRAMES):
            self._new_frames += self._run_search(frames[start : start + SETTLE_FRAMES])
            if self._new_frames >= SETTLE_FRAMES:
                self._new_frames = 0
                self._settle()

    def decode_whole(self, log_probs: Tensor) -> list[Hypothesis]:
        """Decode one utterance [T, V] as a stream of its own."""
        self.reset()
        if len(log_probs) > LONGEST_AT_ONCE_FRAMES:
            self.accept(log_probs)
        else:
            self._run_search(_clamped(log_probs))
        self.finish()
        return self.nbest()

    def _run_search(self, frames: np.ndarray) -> int:
        """Search the next frames [T, V], at least none; return how many of them were not skipped as blank."""
        not_blank = (frames.argmax(axis=-1) != self._blank_id).nonzero()[0]
        last = int(not_blank[-1]) if len(not_blank) else -1 - self.trailing_blanks
        self.trailing_blanks = len(frames) - 1 - last
        kept, self._after_blank = searched_frames(frames, self._blank_id, self._sure_blank, self._after_blank)
        searched = frames[kept]
        self._settled_score += float(frames[:, self._blank_id].sum() - searched[:, self._blank_id].sum())
        if len(searched):
            self._search.decoder.decode_step(searched.ctypes.data, *searched.shape)
            self._frames.append(searched)
            self._numbers += (kept + self.num_frames).tolist()
        self.num_frames += len(frames)
        return len(searched)

    def finish(self) -> None:
        if self._results is None:
            if self._last_frame is not None:
                self._search.decoder.decode_step(self._last_frame.ctypes.data, *self._last_frame.shape)
            self._search.decode_end()
            # Several paths may have one text: all are needed for more than one text.
            results = self._search.decoder.get_all_final_hypothesis()
            self._results = results[:1] if self._nbest == 1 else results

    def nbest(self) -> list[Hypothesis]:
        """Return at most `nbest` hypotheses, best first; before `finish` one, up to its last whole word."""
        if self._results is not None:
            found = distinct([self._hypothesis(result) for result in self._results], self._vocabulary)
            return found[: self._nbest] or [NOTHING]
        if not self.num_frames:
            return [NOTHING]
        # Where all prefixes agreed up to the last frame, nothing is left in the search.
        return [self._hypothesis(self._search.decoder.get_best_hypothesis(0) if self._numbers else None)]

    def _hypothesis(self, result: Any) -> Hypothesis:
        """The settled part, continued by a result of the search, or alone."""
        settled, score = self._settled, self._settled_score
        whole = Collapsed(list(settled.tokens), list(settled.frames), list(settled.ends), list(settled.log_probs))
        words = list(self._settled_words)
        if result is not None:
            score += result.score
            self._collapse(whole, result.tokens[1 : self.pending_frames + 1])
            if self._words is not None:
                words += [self._words[w] for w in result.words[1:] if w >= 0]
        return Hypothesis(*whole, score, None if self._words is None else tuple(words))

    def _collapse(self, into: Collapsed, path: Sequence[int]) -> None:
        """Add the frames after the settled ones."""
        if path:
            if len(self._frames) > 1:
                self._frames = [np.concatenate(self._frames)]
            values = self._frames[0][np.arange(len(path)), path].tolist()
            into.append(path, values, self._numbers, self._previous, self._blank_id)

    def _settle(self) -> None:
        """Settle the frames on which all prefixes agree, and drop them from the search."""
        results = self._search.decoder.get_all_final_hypothesis()
        if not results:
            return
        best = max(results, key=lambda result: result.score)
        length = len(best.tokens)
        agreed = _agreed([result.tokens for result in results], [result.words for result in results])
        if length - agreed > LONGEST_UNSETTLED_FRAMES:
            agreed = length - SETTLE_FRAMES
        if agreed < 2:
            return
        self._search.decoder.prune(length - agreed)
        dropped = length - len(self._search.decoder.get_all_final_hypothesis()[0].tokens)
        if dropped <= 0:
            return
        self._settled_score += best.score
        self._collapse(self._settled, best.tokens[1 : dropped + 1])
        if self._words is not None:
            self._settled_words += [self._words[w] for w in best.words[1 : dropped + 1] if w >= 0]
        self._previous = best.tokens[dropped]
        # One array since `_collapse`; a copy of it, because a view would keep the dropped frames.
        self._frames = [self._frames[0][dropped:].copy()]
        self._numbers = self._numbers[dropped:]


def _clamped(log_probs: Tensor) -> np.ndarray:
    return np.maximum(log_probs.detach().float().cpu().numpy(), np.float32(LOWEST_LOG_PROB))


def searched_frames(frames: np.ndarray, blank_id: int, sure_blank: float, after_blank: bool) -> tuple[np.ndarray, bool]:
    """Select the frames that are searched: of neighbours whose blank is nearly certain only the first, and all others.

    A blank after a blank changes no prefix (Jung et al. 2022, "Blank Collapse: Compressing CTC Emission for the Faster
    Decoding").

    Args:
        frames: log-posteriors [T, V].
        sure_blank: probability above which a blank is nearly certain.
        after_blank: whether this holds for the frame before the first.

    Returns:
        Their indices, and whether the last frame is nearly certainly blank.
    """
    sure = frames[:, blank_id] > (math.log(sure_blank) if sure_blank < 1 else math.inf)
    if not len(sure):
        return np.arange(0), after_blank
    repeated = sure.copy()
    repeated[0] &= after_blank
    repeated[1:] &= sure[:-1]
    return np.flatnonzero(~repeated), bool(sure[-1])


def _agreed(paths: Sequence[Sequence[int]], words: Sequence[Sequence[int]]) -> int:
    """Number of positions from the start in which all paths have the same tokens and words."""
    both = np.concatenate([np.asarray(paths), np.asarray(words)], axis=0).reshape(2, len(paths), -1)
    same = (both == both[:, :1]).all(axis=(0, 1))
    return int(same.argmin()) if not same.all() else same.size


def open_decoder(vocabulary: Vocabulary, settings: DecodingSettings = GREEDY) -> Decoder:
    """Return the decoder that settings describe, for posteriors over a vocabulary.

    Raises:
        LanguageModelError: the LM or lexicon cannot be read, or does not fit the vocabulary.
        MissingExtraError: a beam search without flashlight-text.
    """
    return GreedyDecoder(vocabulary.blank_id) if settings.kind == "greedy" else BeamSearch(vocabulary, settings)
