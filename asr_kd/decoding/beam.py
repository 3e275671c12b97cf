"""Prefix beam search with a KenLM n-gram, a lexicon and hotwords: whole utterances, and streams with the same result.

The search is torchaudio's (flashlight): Graves & Jaitly 2014, Collobert et al. 2016. Knows tensors and vocabularies.

Shapes: B utterances, T frames, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from asr_kd.decoding.flashlight import SearchOptions, open_kenlm, open_search, with_hotwords
from asr_kd.decoding.hotwords import Hotwords
from asr_kd.decoding.hypothesis import NOTHING, Hypothesis, collapse_path, distinct
from asr_kd.decoding.lexicon import Lexicon, build_lexicon, read_words, separator_of
from asr_kd.decoding.settings import DEFAULT_LM_WEIGHT, DecodingSettings
from asr_kd.decoding.streaming_beam import StreamingBeam
from asr_kd.posteriors.measures import LOWEST_LOG_PROB
from asr_kd.text.vocabulary import WORD_SEPARATOR, Vocabulary

LONGEST_AT_ONCE_FRAMES = 1_500
"""Longer utterances (a minute) go through a stream, which forgets what is settled."""


class BeamSearch:
    """A search over posteriors of one vocabulary. The language model is loaded once, whatever number of streams.

    Args:
        vocabulary: what the posteriors are over.
        settings: of kind `beam`.

    Raises:
        LanguageModelError: the LM or lexicon cannot be read, or does not fit the vocabulary.
        MissingExtraError: flashlight-text is not installed.

    Attributes:
        lexicon: the words that may be said; None allows every sequence of tokens.
    """

    def __init__(self, vocabulary: Vocabulary, settings: DecodingSettings) -> None:
        self.vocabulary, self.settings = vocabulary, settings
        self.lexicon = None if settings.lexicon is None else self._read_lexicon()
        entries = list(vocabulary.symbols) if self.lexicon is None else list(self.lexicon.spellings)
        self._entries = entries
        self._lm = None if settings.lm is None else open_kenlm(settings.lm, entries)
        self._separator = separator_of(vocabulary)
        self._weigh()

    def reweighted(self, lm_weight: float, word_score: float) -> "BeamSearch":
        """The same search with other weights; the language model and the spellings are shared."""
        other = object.__new__(BeamSearch)
        other.__dict__.update(self.__dict__)
        changed = {"lm_weight": lm_weight, "word_score": word_score}
        other.settings = self.settings.model_copy(update=changed)
        other._weigh()
        return other

    def decode(self, log_probs: Tensor, lens: Tensor) -> list[list[Hypothesis]]:
        """At most `nbest` hypotheses of each utterance, the best first, each text once.

        Args:
            log_probs: [B, T, V], any float type; −inf is the logarithm of 0.
            lens: frames of each utterance, [B].
        """
        on_cpu = log_probs.detach().float().clamp_min(LOWEST_LOG_PROB).cpu()
        rows = zip(on_cpu, lens.tolist(), strict=True)
        return [self._decode(frames[:length]) for frames, length in rows]

    def stream(self) -> StreamingBeam:
        """A stream of its own: a search of its own around the shared language model."""
        return StreamingBeam(
            self._open(), self.vocabulary.blank_id, self.settings.nbest, self.last_frame(), self.word_names
        )

    def last_frame(self) -> Tensor | None:
        """A frame [1, V] after the last one, which says a word separator: it ends the last word.

        Where the word has ended, it is one more separator. None where words do not end in one.
        """
        if self.lexicon is None or not self.lexicon.ends_in_separator or self._separator is None:
            return None
        row = torch.full((1, len(self.vocabulary)), LOWEST_LOG_PROB)
        row[0, self._separator] = 0.0
        return row

    @property
    def word_names(self) -> Sequence[str] | None:
        """Words of the lexicon by number."""
        return None if self.lexicon is None else self._entries

    def _decode(self, frames: Tensor) -> list[Hypothesis]:
        if len(frames) > LONGEST_AT_ONCE_FRAMES:
            stream = self.stream()
            stream.accept(frames)
            stream.finish()
            return stream.nbest()
        extra = self.last_frame()
        heard = (frames if extra is None else torch.cat([frames, extra])).contiguous()
        found = self._search.decoder.decode(heard.data_ptr(), *heard.shape)
        hypotheses = []
        for result in found[: self._candidates]:
            path = result.tokens[1 : len(frames) + 1]  # before stands the state before the first frame
            values = frames.gather(1, torch.tensor(path, dtype=torch.long).unsqueeze(1)).flatten().tolist()
            words = None if self.lexicon is None else tuple(self._entries[w] for w in result.words if w >= 0)
            hypotheses.append(Hypothesis(*collapse_path(path, values, self.vocabulary.blank_id), result.score, words))
        return distinct(hypotheses)[: self.settings.nbest] or [NOTHING]

    @property
    def _candidates(self) -> int:
        """Paths that are looked at: several may say the same."""
        return 1 if self.settings.nbest == 1 else self.settings.beam_size

    def _read_lexicon(self) -> Lexicon:
        path = self.settings.lexicon
        words = read_words(path) if path is not None else []
        hotwords = [word for phrase in self.settings.hotwords for word in phrase.split()]
        return build_lexicon([*words, *hotwords], self.vocabulary, path or "lexicon")

    def _weigh(self) -> None:
        settings = self.settings
        weight = DEFAULT_LM_WEIGHT if settings.lm_weight is None else settings.lm_weight
        self._scorer, self._options = (
            self._lm,
            SearchOptions(
                settings.beam_size,
                settings.beam_threshold,
                min(settings.beam_tokens, len(self.vocabulary)),
                weight,
                settings.word_score or 0.0,
                log_add=True,  # all alignments of a prefix count, as without a language model
            ),
        )
        if settings.hotwords:
            self._scorer = with_hotwords(
                self._lm, weight, Hotwords(settings.hotwords, settings.hotword_score), self._texts()
            )
            self._options = self._options._replace(lm_weight=1.0)
        self._search = self._open()

    def _texts(self) -> list[str]:
        """What each entry writes."""
        return self._entries if self.lexicon is None else [word + WORD_SEPARATOR for word in self._entries]

    def _open(self) -> Any:
        blank = self.vocabulary.blank_id
        silence = blank if self._separator is None else self._separator
        return open_search(len(self.vocabulary), blank, silence, self._options, self.lexicon, self._scorer)
