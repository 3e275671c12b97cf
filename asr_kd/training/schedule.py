"""The learning rate: linear warm-up, then half a cosine (Loshchilov & Hutter 2017)."""

import math


def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float, final_share: float) -> float:
    """Rate of optimizer step `step`, counted from 0: peak / warmup at the first, `final_share` of peak at the last."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = min((step - warmup_steps) / max(total_steps - 1 - warmup_steps, 1), 1.0)
    return peak * (final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * done)))
