"""Prefix beam search with a KenLM n-gram model, a lexicon and hotwords; streams give the result of whole utterances.

The search is torchaudio's (flashlight): Graves & Jaitly 2014, Collobert et al. 2016.

Shapes: B utterances, T frames, V vocabulary.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr_kd.decoding.base import NOTHING, Decoder, Hypothesis, collapse_path, distinct
from asr_kd.decoding.flashlight import SearchOptions, open_kenlm, open_search, with_hotwords
from asr_kd.decoding.greedy import GreedyDecoder
from asr_kd.decoding.lexicon import Hotwords, Lexicon, build_lexicon, read_words, separator_of, written_hotword
from asr_kd.decoding.settings import DEFAULT_LM_WEIGHT, GREEDY, DecodingSettings
from asr_kd.decoding.streaming_beam import StreamingBeam, num_candidates, searched_frames
from asr_kd.posteriors.measures import LOWEST_LOG_PROB
from asr_kd.text.vocabulary import WORD_SEPARATOR, Vocabulary

LONGEST_AT_ONCE_FRAMES = 1_500
"""Longer utterances (one minute) are decoded as a stream, in constant memory."""


class BeamSearch:
    """Beam search over posteriors of one vocabulary. All its streams share one language model.

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
        self.lexicon = None if settings.lexicon is None else self._read_lexicon()
        entries = list(vocabulary.symbols) if self.lexicon is None else list(self.lexicon.spellings)
        self._entries = entries
        self._lm = None if settings.lm is None else open_kenlm(settings.lm, entries)
        self._separator = separator_of(vocabulary)
        self._ending = self.last_frame()
        self._apply_weights()

    def reweighted(self, lm_weight: float, word_score: float) -> "BeamSearch":
        """Return the same search with other weights; the language model and the spellings are shared."""
        other = object.__new__(BeamSearch)
        other.__dict__.update(self.__dict__)
        changed = {"lm_weight": lm_weight, "word_score": word_score}
        other.settings = self.settings.model_copy(update=changed)
        other._apply_weights()
        return other

    def decode(self, log_probs: Tensor, lens: Tensor) -> list[list[Hypothesis]]:
        """Return at most `nbest` hypotheses of each utterance, the best first, each text once.

        Args:
            log_probs: [B, T, V], any float type; −inf is the logarithm of 0.
            lens: frames of each utterance, [B].
        """
        frames = np.maximum(log_probs.detach().float().cpu().numpy(), np.float32(LOWEST_LOG_PROB))
        return [self._decode(rows[:length]) for rows, length in zip(frames, lens.tolist(), strict=True)]

    def stream(self) -> StreamingBeam:
        """Return a decoder of one stream, with its own search around the shared language model."""
        words = None if self.lexicon is None else self._entries
        return StreamingBeam(self._open(), self.vocabulary.blank_id, self.settings, self._ending, words)

    def last_frame(self) -> np.ndarray | None:
        """Return a frame [1, V] of the word separator, which ends the last word; None where words do not end in one."""
        if self.lexicon is None or not self.lexicon.ends_in_separator or self._separator is None:
            return None
        row = np.full((1, len(self.vocabulary)), LOWEST_LOG_PROB, dtype=np.float32)
        row[0, self._separator] = 0.0
        return row

    def _decode(self, frames: np.ndarray) -> list[Hypothesis]:
        if len(frames) > LONGEST_AT_ONCE_FRAMES:
            stream = self.stream()
            stream.accept(torch.from_numpy(frames))
            stream.finish()
            return stream.nbest()
        # Numpy, whose operations on one utterance are faster than torch's.
        blank_id = self.vocabulary.blank_id
        numbers, _ = searched_frames(frames, blank_id, self.settings.sure_blank, after_blank=False)
        searched = frames[numbers]
        left_out = float(frames[:, blank_id].sum() - searched[:, blank_id].sum())
        search = self._search.decoder
        search.decode_begin()
        for part in (searched, self._ending):
            if part is not None and len(part):
                search.decode_step(part.ctypes.data, *part.shape)
        search.decode_end()
        hypotheses = []
        for result in search.get_all_final_hypothesis()[: num_candidates(self.settings.nbest)]:
            path = result.tokens[1 : len(searched) + 1]  # the first entry is the state before the first frame
            values = searched[np.arange(len(path)), path].tolist()
            words = None if self.lexicon is None else tuple([self._entries[w] for w in result.words if w >= 0])
            collapsed = collapse_path(path, values, numbers.tolist(), blank_id)
            hypotheses.append(Hypothesis(*collapsed, result.score + left_out, words))
        return distinct(hypotheses)[: self.settings.nbest] or [NOTHING]

    def _read_lexicon(self) -> Lexicon:
        path = self.settings.lexicon
        words = read_words(path) if path is not None else []
        hotwords = [word for phrase in self.settings.hotwords for word in phrase.split()]
        return build_lexicon([*words, *hotwords], self.vocabulary, path or "lexicon")

    def _apply_weights(self) -> None:
        settings = self.settings
        weight = DEFAULT_LM_WEIGHT if settings.lm_weight is None else settings.lm_weight
        self._scorer = self._lm
        self._options = SearchOptions(
            settings.beam_size,
            settings.beam_threshold,
            min(settings.beam_tokens, len(self.vocabulary)),
            weight,
            settings.word_score or 0.0,
            log_add=True,  # sum over all alignments of a prefix
        )
        if settings.hotwords:
            texts = self._entries if self.lexicon is None else [word + WORD_SEPARATOR for word in self._entries]
            hotwords = Hotwords(settings.hotwords, settings.hotword_score)
            self._scorer = with_hotwords(self._lm, weight, hotwords, texts)
            self._options = self._options._replace(lm_weight=1.0)
        self._search = self._open()

    def _open(self) -> Any:
        blank = self.vocabulary.blank_id
        silence = blank if self._separator is None else self._separator
        return open_search(len(self.vocabulary), blank, silence, self._options, self.lexicon, self._scorer)


def open_decoder(vocabulary: Vocabulary, settings: DecodingSettings = GREEDY) -> Decoder:
    """Return the decoder that settings describe, for posteriors over a vocabulary.

    Raises:
        LanguageModelError: the LM or lexicon cannot be read, or does not fit the vocabulary.
        MissingExtraError: a beam search without flashlight-text.
    """
    return GreedyDecoder(vocabulary.blank_id) if settings.kind == "greedy" else BeamSearch(vocabulary, settings)
