"""Batches by duration, padding counted: for teachers, training, evaluation and the offline recognizer."""

from collections.abc import Iterable, Sequence


def batches_by_duration(
    durations: Sequence[float], limit: float, order: Iterable[int] | None = None
) -> list[list[int]]:
    """Divide indices into batches whose padded audio is at most `limit`; a longer item is a batch of its own.

    The padded audio is the number of items times the longest. Items are taken in `order`, in which those of similar
    length should be neighbours; None: from short to long.
    """
    batches: list[list[int]] = []
    longest = 0.0
    for index in sorted(range(len(durations)), key=durations.__getitem__) if order is None else order:
        longest = max(longest, durations[index])
        if not batches or longest * (len(batches[-1]) + 1) > limit:
            batches.append([])
            longest = durations[index]
        batches[-1].append(index)
    return batches
