"""A small random Whisper in CTranslate2's form, for English alone: its text is noise, its files are the real ones."""

from pathlib import Path

from tests.helpers.tiny_encoders import WHISPER

TIMESTAMPS = [f"<|{step * 0.02:.2f}|>" for step in range(1501)]
SPECIAL = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
    *TIMESTAMPS,
]


def save_whisper_ct2(folder: Path) -> Path:
    """Write the model and return its folder."""
    import ctranslate2
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: id_ for id_, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    names = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    config = transformers.WhisperConfig(
        **{
            **WHISPER,
            "d_model": 64,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "vocab_size": tokenizer.get_vocab_size(),
            "decoder_start_token_id": names["<|startoftranscript|>"],
            "begin_suppress_tokens": [names["<|endoftext|>"]],  # the default ones are outside this vocabulary
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), names["<|endoftext|>"]),
        }
    )
    torch.manual_seed(0)
    plain = folder.with_name(f"{folder.name}-transformers")
    model = transformers.WhisperForConditionalGeneration(config)
    ctranslate2.set_random_seed(0)
    with torch.no_grad():  # only a few letters, spaces and the end are likely
        model.model.decoder.layer_norm.bias.fill_(1.0)
        for letter in (*"eiotĠ", "<|endoftext|>"):
            model.model.decoder.embed_tokens.weight[tokenizer.token_to_id(letter)] += 0.3
        model.model.decoder.embed_tokens.weight[names["<|endoftext|>"]] += 0.02
    model.save_pretrained(plain)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(plain)
    ctranslate2.converters.TransformersConverter(str(plain), copy_files=["tokenizer.json"]).convert(str(folder))
    return folder
