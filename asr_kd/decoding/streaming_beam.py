"""Beam search of one stream, in constant memory: what all prefixes agree on is settled, and forgotten by the search.

For every way to cut an utterance into chunks the result is that of the search over the whole. Knows tensors only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr_kd.decoding.hypothesis import NOTHING, Collapsed, Hypothesis, distinct
from asr_kd.posteriors.measures import LOWEST_LOG_PROB

SETTLE_FRAMES = 250
"""Frames (ten seconds) after which the search is asked again what is settled."""

LONGEST_UNSETTLED_FRAMES = 1_500
"""Frames (a minute) after which the best prefix is settled although others are left: nothing shorter ever is so."""


class StreamingBeam:
    """One stream through a search of its own.

    Args:
        search: torchaudio's decoder.
        blank_id: the CTC blank.
        nbest: hypotheses that are kept.
        last_frame: a frame [1, V] that ends the last word, see `BeamSearch.last_frame`.
        words: a lexicon's words by number; None without a lexicon.

    Attributes:
        num_frames: frames seen so far.
        trailing_blanks: frames at the end whose likeliest token is the blank.
    """

    def __init__(
        self, search: Any, blank_id: int, nbest: int, last_frame: Tensor | None, words: Sequence[str] | None
    ) -> None:
        self._search, self._blank_id, self._nbest = search, blank_id, nbest
        self._last_frame, self._words = last_frame, words
        self.reset()

    def reset(self) -> None:
        """Start a new stream."""
        self._search.decode_begin()
        self.num_frames = self.trailing_blanks = 0
        self._settled = Collapsed([], [], [], [])
        self._settled_words: list[str] = []
        self._settled_frames = 0
        self._settled_score = 0.0
        self._previous = self._blank_id  # token of the last settled frame
        self._log_probs: list[Tensor] = []  # of the frames that are not settled
        self._asked_at = 0
        self._results: list[Any] | None = None  # of a stream that has ended

    @property
    def pending_frames(self) -> int:
        """Frames that the search still remembers."""
        return self.num_frames - self._settled_frames

    def accept(self, log_probs: Tensor) -> None:
        """Decode the next frames, [T, V]; T may be 0.

        Raises:
            ValueError: the stream has ended.
        """
        if self._results is not None:
            raise ValueError("this stream has ended; call reset() or open another one")
        frames = log_probs.detach().float().clamp_min(LOWEST_LOG_PROB).cpu().contiguous()
        for part in frames.split(SETTLE_FRAMES):
            self._accept(part)

    def _accept(self, frames: Tensor) -> None:
        if len(frames) == 0:
            return
        self._search.decode_step(frames)
        self._log_probs.append(frames)
        self.num_frames += len(frames)
        spoken = (frames.argmax(dim=-1) != self._blank_id).nonzero()
        silent = len(frames) - 1 - int(spoken[-1]) if len(spoken) else self.trailing_blanks + len(frames)
        self.trailing_blanks = silent
        if self.num_frames - self._asked_at >= SETTLE_FRAMES:
            self._asked_at = self.num_frames
            self._settle()

    def finish(self) -> None:
        """The stream has ended."""
        if self._results is None:
            if self._last_frame is not None:
                self._search.decode_step(self._last_frame)
            self._search.decode_end()
            self._results = self._search.decoder.get_all_final_hypothesis()

    def nbest(self) -> list[Hypothesis]:
        """At most `nbest` hypotheses, the best first; before `finish` the best one, as far as its words are whole."""
        if self._results is not None:
            looked_at = self._results[: 1 if self._nbest == 1 else None]
            return distinct([self._hypothesis(result) for result in looked_at])[: self._nbest] or [NOTHING]
        if self.num_frames == 0:
            return [NOTHING]
        return [self._hypothesis(self._search.decoder.get_best_hypothesis(0))]

    def _hypothesis(self, result: Any) -> Hypothesis:
        """What is settled, and what a result says of the rest."""
        settled = self._settled
        whole = Collapsed(list(settled.tokens), list(settled.frames), list(settled.ends), list(settled.log_probs))
        path = result.tokens[1 : self.pending_frames + 1]
        self._collapse(whole, path)
        words = None
        if self._words is not None:
            words = (*self._settled_words, *(self._words[w] for w in result.words[1:] if w >= 0))
        return Hypothesis(*whole, self._settled_score + result.score, words)

    def _collapse(self, into: Collapsed, path: Sequence[int]) -> None:
        """Add the frames after the settled ones."""
        if path:
            frames = torch.cat(self._log_probs)[: len(path)]
            values = frames.gather(1, torch.tensor(path, dtype=torch.long).unsqueeze(1)).flatten().tolist()
            into.append(path, values, self._settled_frames, self._previous, self._blank_id)

    def _settle(self) -> None:
        """Take over the frames on which all prefixes agree, and let the search forget them."""
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
        self._settled_frames += dropped
        rest = torch.cat(self._log_probs)[dropped:].clone()  # not a view, which would keep what is dropped
        self._log_probs = [rest] if len(rest) else []


def _agreed(paths: Sequence[Sequence[int]], words: Sequence[Sequence[int]]) -> int:
    """How many positions from the start all paths share, tokens and words."""
    both = np.concatenate([np.asarray(paths), np.asarray(words)], axis=0).reshape(2, len(paths), -1)
    same = (both == both[:, :1]).all(axis=(0, 1))
    return int(same.argmin()) if not same.all() else same.size
