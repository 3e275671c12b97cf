"""The n best hypotheses of CTC posteriors: prefix beam search without a language model, by flashlight-text.

Knows tensors only. Scores are log-probabilities of token sequences, summed over all alignments inside the beam (Graves
& Jaitly 2014; Hannun 2014); with a beam wide enough they are exact. Needs the extra ``lm``.

Shapes: B utterances, T frames, V vocabulary.
"""

from typing import NamedTuple

from torch import Tensor

from asr_kd.decoding.flashlight import open_factory
from asr_kd.posteriors.measures import LOWEST_LOG_PROB

TOKENS_A_FRAME = 40
"""Most likely tokens of a frame that the search goes on with."""


class ScoredTokens(NamedTuple):
    """One hypothesis."""

    tokens: list[int]
    score: float  # log-probability, natural


class NbestDecoder:
    """Prefix beam search over posteriors of one vocabulary.

    Args:
        vocab_size: V.
        blank_id: the CTC blank.
        separator_id: token of the space between words, where there is one: at the ends of a hypothesis, and a second
            time at the start, it says nothing, and such hypotheses may come apart or together; compare their words.
        beam_size: prefixes that are followed.
        beam_threshold: prefixes this much less likely than the best, in nats, are dropped.

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
        names = [str(token) for token in range(vocab_size)]
        self._decoder = open_factory()(
            lexicon=None,
            tokens=names,
            blank_token=names[blank_id],
            sil_token=names[blank_id if separator_id is None else separator_id],
            nbest=beam_size,
            beam_size=beam_size,
            beam_size_token=min(vocab_size, TOKENS_A_FRAME),
            beam_threshold=beam_threshold,
            log_add=True,  # alignments of one prefix add up; without it only the best one would count
        )

    def decode(self, log_probs: Tensor, lens: Tensor) -> list[list[ScoredTokens]]:
        """At most `beam_size` hypotheses of each utterance, the best first; none where posteriors are not numbers.

        Args:
            log_probs: [B, T, V], any float type; −inf is the logarithm of 0.
            lens: frames of each utterance, [B].
        """
        on_cpu = log_probs.detach().float().clamp_min(LOWEST_LOG_PROB).cpu().contiguous()
        found = self._decoder(on_cpu, lens.cpu())
        return [[ScoredTokens(item.tokens.tolist(), float(item.score)) for item in items] for items in found]
