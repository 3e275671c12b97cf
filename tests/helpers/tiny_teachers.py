"""Small random CTC models of other projects, saved in each library's own format, and one with a finite view."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from asr_kd.teachers.base import CtcTeacher
from asr_kd.teachers.frame_geometry import FrameGeometry, strided
from asr_kd.text.vocabulary import Vocabulary

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
"""wav2vec2's own."""
LABELS = ("<pad>", "<s>", "</s>", "<unk>", "|", "E", "T", "A", "O", "N", "I", "'")

WAVEFORM = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "vocab_size": len(LABELS),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 7,
    "conv_dim": (16,) * 7,
    "conv_kernel": KERNELS,
    "conv_stride": STRIDES,
    "feat_extract_norm": "layer",
    "pad_token_id": 0,
}
BERT = {
    "hidden_size": 32,
    "output_hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "vocab_size": len(LABELS),
    "conv_depthwise_kernel_size": 5,
    "pad_token_id": 0,
}
ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "conv_kernel_size": 5,
    "subsampling_conv_channels": 8,
}
PARAKEET = {
    "vocab_size": len(LABELS),
    "pad_token_id": len(LABELS) - 1,
    "encoder_config": {**ENCODER, "num_key_value_heads": 2, "num_mel_bins": 80},
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2-base": ("Wav2Vec2Config", {**WAVEFORM, "feat_extract_norm": "group"}),
    "wav2vec2-large": ("Wav2Vec2Config", {**WAVEFORM, "do_stable_layer_norm": True}),
    "wav2vec2-adapter": ("Wav2Vec2Config", {**WAVEFORM, "add_adapter": True, "num_adapter_layers": 1}),
    "hubert-large": ("HubertConfig", {**WAVEFORM, "do_stable_layer_norm": True}),
    "hubert-batch-norm": ("HubertConfig", {**WAVEFORM, "conv_pos_batch_norm": True}),
    "wavlm-base": ("WavLMConfig", {**WAVEFORM, "feat_extract_norm": "group"}),
    "wavlm-large": ("WavLMConfig", {**WAVEFORM, "do_stable_layer_norm": True}),
    "data2vec-audio": (
        "Data2VecAudioConfig",
        {**WAVEFORM, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5},
    ),
    "wav2vec2-conformer": ("Wav2Vec2ConformerConfig", {**WAVEFORM, "conv_depthwise_kernel_size": 5}),
    "unispeech": ("UniSpeechConfig", WAVEFORM),
    "unispeech-sat": ("UniSpeechSatConfig", WAVEFORM),
    "sew": ("SEWConfig", {**WAVEFORM, "squeeze_factor": 2}),
    "sew-d": ("SEWDConfig", {**WAVEFORM, "squeeze_factor": 2}),
    "wav2vec2-bert": ("Wav2Vec2BertConfig", BERT),
    "wav2vec2-bert-adapter": ("Wav2Vec2BertConfig", {**BERT, "add_adapter": True}),
    "parakeet": ("ParakeetCTCConfig", PARAKEET),
    "lasr": (
        "LasrCTCConfig",
        {"vocab_size": len(LABELS), "pad_token_id": 0, "encoder_config": {**ENCODER, "num_mel_bins": 128}},
    ),
}
"""Configuration class of transformers and its arguments, by name."""


def save_transformers(name: str, folder: Path, normalise: bool = True) -> tuple[Any, Any]:
    """Save a random model of `MODELS` as save_pretrained does; returns model and feature extractor."""
    import transformers

    kind, arguments = MODELS[name]
    config = getattr(transformers, kind)(**arguments)
    torch.manual_seed(0)
    model = randomised(transformers.AutoModelForCTC.from_config(config).eval())
    extractors = {
        "wav2vec2-bert": transformers.SeamlessM4TFeatureExtractor,
        "parakeet_ctc": transformers.ParakeetFeatureExtractor,
        "lasr_ctc": transformers.LasrFeatureExtractor,
    }
    if config.model_type in extractors:
        extractor = extractors[config.model_type]()
    else:
        masked = config.feat_extract_norm == "layer"
        extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=masked, do_normalize=normalise)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    save_labels(folder, (*LABELS[1:], LABELS[0]) if name == "parakeet" else LABELS)
    return model, extractor


def save_labels(folder: Path, labels: Sequence[str]) -> None:
    """The tokenizer of such models; labels in the order of their ids."""
    import transformers

    source = folder / "labels.json"
    source.write_text(json.dumps({label: index for index, label in enumerate(labels)}), encoding="utf-8")
    transformers.Wav2Vec2CTCTokenizer(str(source)).save_pretrained(folder)
    source.unlink()


def randomised(model: nn.Module) -> nn.Module:
    """Weights, biases and running means far from their defaults, so that nothing is equal by being zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(float(parameter.ndim == 1)).add_(torch.randn_like(parameter), alpha=0.25)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.25)
    return model


def waveforms(*num_samples: int) -> tuple[Tensor, Tensor]:
    """Noise in a padded batch [B, S], with noise in the padding too, and lengths [B]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(num_samples), max(num_samples), generator=generator) * 0.1, torch.tensor(num_samples)


SHORT_KERNELS, SHORT_STRIDES = (40, 8, 4), (20, 4, 4)
"""Frames of 20 ms."""
VIEW_FRAMES = 3
"""Frames to either side that a frame of `near_sighted` sees, at most."""


def near_sighted(seed: int = 0, size: int = 6) -> CtcTeacher:
    """A teacher whose frames depend on the audio nearby only."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    channels = 1
    for kernel, stride in zip(SHORT_KERNELS, SHORT_STRIDES, strict=True):
        layers += [nn.Conv1d(channels, 8, kernel, stride), nn.Tanh()]
        channels = 8
    model = randomised(nn.Sequential(*layers, nn.Conv1d(8, size, 5, padding=2))).eval()

    def forward(rows: Sequence[Tensor]) -> Tensor:
        return model(20 * pad_sequence(list(rows), batch_first=True).unsqueeze(1)).transpose(1, 2)

    return CtcTeacher(
        name=f"near-sighted {seed}",
        weights_sha256=f"{seed:064x}",
        vocabulary=Vocabulary(("<blk>", "▁", *"abcdefgh"[: size - 2])),
        geometry=FrameGeometry(strided(SHORT_KERNELS, SHORT_STRIDES)),
        features={"kind": "waveform"},
        forward=forward,
        masks_padding=False,
        device=torch.device("cpu"),
    )
