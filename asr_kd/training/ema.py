"""The exponential moving average of a model's weights, which takes the raw ones' place after training.

Source: Polyak & Juditsky 1992; the decay grows as in Tensorflow's ExponentialMovingAverage, so that the first steps'
weights, which are not much better than random ones, are soon forgotten. Knows no data.
"""

from pydantic import Field
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from asr_kd.config import Settings


class EmaSettings(Settings):
    """An exponential moving average of the weights: what is judged on dev, kept of each epoch, and averaged at last."""

    decay: float = Field(0.999, gt=0, lt=1)
    """What a step leaves of the average before it: 0.999 remembers about 1,000 steps. After n steps it is at most
    (1 + n) / (10 + n)."""


class Ema(AveragedModel):
    """A copy of a model that follows it slowly; it is never trained itself and always in evaluation mode.

    Its tensors travel in checkpoints beside the model's, the number of steps among them.

    Args:
        model: what it copies.
        decay: once it has grown up.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self.requires_grad_(False).eval()

    def follow(self, model: nn.Module) -> None:
        """Take a step towards `model`: all the way at the first, 1 − decay of it later."""
        steps = int(self.n_averaged)
        self.multi_avg_fn = get_ema_multi_avg_fn(min(self.decay, (1 + steps) / (10 + steps)))
        self.update_parameters(model)
