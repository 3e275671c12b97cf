"""speechbrain's own Conformer–CTC and its training step, for comparison with ours. No script of its own.

Put together as in speechbrain's LibriSpeech recipes (`ASR/transformer/hparams/conformer_small.yaml`): CNN front end of
two blocks, `TransformerASR`, linear head, its CTC loss, AdamW, one `Brain.fit_batch` a step; a streaming model trains
with its dynamic chunks. Sizes are ours: width, layers, heads, feed-forward, kernel and front-end channels.
"""

from typing import Any

import speechbrain
import torch
from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
from speechbrain.nnet.losses import ctc_loss
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from asr_kd.features.fbank import NUM_MEL_BINS
from asr_kd.models.settings import ConformerSettings
from asr_kd.training.batch import Batch

DROPOUT = 0.1


class SpeechbrainConformer(nn.Module):
    """[B, T, F] features with relative lengths → [B, T', V] log-probabilities.

    Args:
        settings: the shape.
        vocab_size: V.
        attention: `RelPosMHAXL` (what the recipes have) or `RoPEMHA` (rotary, as ours).
    """

    def __init__(self, settings: ConformerSettings, vocab_size: int, attention: str) -> None:
        super().__init__()
        channels = settings.subsampling_channels
        self.front = ConvolutionFrontEnd(
            input_shape=(8, 10, NUM_MEL_BINS),
            num_blocks=2,
            num_layers_per_block=1,
            out_channels=[channels, channels],
            kernel_sizes=[3, 3],
            strides=[2, 2],
            residuals=[False, False],
        )
        self.encoder = TransformerASR(
            tgt_vocab=vocab_size,
            input_size=channels * NUM_MEL_BINS // 4,
            d_model=settings.width,
            nhead=settings.heads,
            num_encoder_layers=settings.layers,
            num_decoder_layers=0,
            d_ffn=settings.feed_forward,
            dropout=DROPOUT,
            kernel_size=settings.kernel,
            encoder_module="conformer",
            attention_type=attention,
            normalize_before=True,
            causal=False,
        )
        self.head = nn.Linear(settings.width, vocab_size)
        streaming = settings.streaming
        self.chunks = None
        if streaming is not None:
            left_chunks = streaming.left_context_frames // streaming.chunk_frames
            self.chunks = DynChunkTrainConfig(streaming.chunk_frames, left_chunks)

    def forward(self, features: Tensor, shares: Tensor) -> Tensor:
        hidden = self.encoder.encode(self.front(features), shares, dynchunktrain_config=self.chunks)
        return self.head(hidden).log_softmax(-1)


class SpeechbrainStep(speechbrain.Brain):
    """`fit_batch(batch)` is one optimizer step on one of our batches."""

    def __init__(self, model: SpeechbrainConformer, blank_id: int, precision: str) -> None:
        def optimizer(parameters: Any) -> torch.optim.Optimizer:
            return torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.98), weight_decay=1e-2)

        options = {"device": "cpu", "precision": precision, "noprogressbar": True, "max_grad_norm": 5.0}
        super().__init__(modules={"model": model}, opt_class=optimizer, run_opts=options)
        self.blank_id = blank_id
        self.modules.train()
        self.init_optimizers()

    def compute_forward(self, batch: Batch, stage: Any) -> Tensor:
        return self.modules.model(batch.features, batch.feature_lens / batch.features.shape[1])

    def compute_objectives(self, predictions: Tensor, batch: Batch, stage: Any) -> Tensor:
        tokens, lens = batch.references
        shares = batch.feature_lens / batch.features.shape[1]
        return ctc_loss(predictions, tokens, shares, lens / tokens.shape[1], self.blank_id)
