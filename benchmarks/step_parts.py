"""Two parts of a training step on the CPU, ours beside torch's own: attention and dropout. Prints a table.

    python benchmarks/step_parts.py [--repeats 60]

One thread; sizes of the `small` model on 8 utterances of 4 seconds. Medians, in milliseconds.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_kd.models.layers import Dropout, attention_mask

BATCH, HEADS, FRAMES, HEAD_WIDTH, INNER = 8, 4, 100, 36, 576


def plain(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """What `models/layers.py` does on a CPU."""
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1) + attention_mask(allowed)
    return scores.softmax(-1).to(value.dtype) @ value


def fused(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """torch's own."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)


def time_attention(attend: Callable[..., Tensor], dtype: torch.dtype, repeats: int) -> tuple[float, float]:
    """Milliseconds forward and backward."""
    allowed = torch.ones(BATCH, 1, FRAMES, FRAMES, dtype=torch.bool)
    times = []
    for _ in range(repeats):
        shape = (BATCH, HEADS, FRAMES, HEAD_WIDTH)
        inputs = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]
        start = time.perf_counter()
        mixed = attend(*inputs, allowed)
        middle = time.perf_counter()
        mixed.sum().backward()
        times.append((middle - start, time.perf_counter() - middle))
    return 1e3 * median(forward for forward, _ in times), 1e3 * median(backward for _, backward in times)


def time_dropout(module: torch.nn.Module, repeats: int) -> float:
    """Milliseconds forward."""
    hidden = torch.randn(BATCH, FRAMES, INNER)
    module.train()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        module(hidden)
        times.append(time.perf_counter() - start)
    return 1e3 * median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}\n")
    print(f"{'attention':<28}{'forward ms':>12}{'backward ms':>13}")
    for dtype in (torch.float32, torch.bfloat16):
        for name, attend in (("ours", plain), ("torch's fused", fused)):
            forward, backward = time_attention(attend, dtype, repeats)
            print(f"{name + ', ' + str(dtype).removeprefix('torch.'):<28}{forward:>12.2f}{backward:>13.2f}")
    print(f"\n{'dropout':<28}{'forward ms':>12}")
    for name, module in (("ours", Dropout(0.1)), ("torch's", torch.nn.Dropout(0.1))):
        print(f"{name:<28}{time_dropout(module, repeats):>12.2f}")


if __name__ == "__main__":
    main()
