"""Small random speech encoders of transformers, saved as save_pretrained does."""

from pathlib import Path
from typing import Any

import torch

from tests.helpers.tiny_teachers import BERT, WAVEFORM

WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 37,
    "vocab_size": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "whisper": ("WhisperConfig", WHISPER),
    "wav2vec2-base": ("Wav2Vec2Config", {**WAVEFORM, "feat_extract_norm": "group"}),
    "wav2vec2-large": ("Wav2Vec2Config", {**WAVEFORM, "do_stable_layer_norm": True}),
    "hubert": ("HubertConfig", {**WAVEFORM, "feat_extract_norm": "group"}),
    "wavlm": ("WavLMConfig", {**WAVEFORM, "feat_extract_norm": "group"}),
    "w2v-bert": ("Wav2Vec2BertConfig", BERT),
}
"""Configuration class of transformers and its arguments, by name."""


def save_encoder(name: str, folder: Path, **changed: Any) -> tuple[Any, Any]:
    """Save a random encoder; returns the library's model and feature extractor."""
    import transformers

    kind, arguments = ENCODERS[name]
    config = getattr(transformers, kind)(**{**arguments, **changed})
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    if name == "whisper":
        extractor = transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    elif name == "w2v-bert":
        extractor = transformers.SeamlessM4TFeatureExtractor()
    else:
        extractor = transformers.Wav2Vec2FeatureExtractor()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return model, extractor
