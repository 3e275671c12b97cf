"""Choosing which entries of a dense frame to keep. Knows nothing of how they are stored."""

from torch import Tensor

from asr_kd.posteriors.types import SparsePosteriors


def keep_nucleus(probs: Tensor, epsilon: float, max_entries: int) -> SparsePosteriors:
    """Keep the largest entries of each frame until their mass is at least 1 − ε, at most `max_entries`.

    Nothing is renormalised: the rest is the tail. Equal probabilities are kept in the order of their token.

    Args:
        probs: [..., V], each frame summing to 1.
        epsilon: mass that may stay outside, in [0, 1).
        max_entries: K, at least 1; more than V keeps V.

    Returns:
        Entries by falling probability, [..., K] (int64, float32); fillers are token 0 with probability 0.

    Raises:
        ValueError: `epsilon` or `max_entries` out of range.
    """
    if not 0.0 <= epsilon < 1.0 or max_entries < 1:
        raise ValueError(f"epsilon={epsilon} must be in [0, 1) and max_entries={max_entries} at least 1")
    ordered, tokens = probs.float().sort(dim=-1, descending=True, stable=True)
    ordered, tokens = ordered[..., :max_entries], tokens[..., :max_entries]
    before = ordered.cumsum(-1) - ordered  # mass of the larger ones: an entry is kept while that is too little
    kept = (before < 1.0 - epsilon) & (ordered > 0)
    kept[..., 0] = True
    return SparsePosteriors(tokens.masked_fill(~kept, 0), ordered.masked_fill(~kept, 0.0))
