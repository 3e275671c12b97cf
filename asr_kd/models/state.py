"""What a stream remembers between two chunks: named fields of fixed size, zeros meaning "no history".

Shapes: L left-context frames, N streams, D width, K convolution kernel.
"""

from typing import NamedTuple

from torch import Tensor


class StreamState(NamedTuple):
    """Caches of a batch of streams; every stream may stand at its own position."""

    keys: list[Tensor]
    """Per layer: the last L projected keys, [L, N, D], oldest first; rotated only when used."""
    values: list[Tensor]
    """Per layer: the last L projected values, [L, N, D], oldest first."""
    convs: list[Tensor]
    """Per layer: the last K − 1 inputs of the depthwise convolution, [N, D, K − 1], oldest first."""
    processed: Tensor
    """Encoder frames each stream has been through, [N] int64; tells history from zeros."""
