"""CTC models of transformers as teachers: a folder or a repository of the hub, safetensors only, never its code.

Waveforms go through the repository's own feature extractor. What is known here of each family is where its frames
lie and whether padding leaves an utterance's posteriors alone; see `frame_geometry`.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE
from asr_kd.config import user_path
from asr_kd.errors import AsrKdError, CheckpointError, HubError, RecipeError, import_extra
from asr_kd.files import loads_json, sha256_of, sha256_of_file
from asr_kd.hub import snapshot
from asr_kd.teachers.base import CtcTeacher, Forward, ctc_vocabulary
from asr_kd.teachers.frame_geometry import FAMILIES, Family
from asr_kd.teachers.settings import Precision
from asr_kd.text.vocabulary import Vocabulary

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
EXTRACTORS = ("preprocessor_config.json", "processor_config.json")
TOKENIZERS = ("vocab.json", "tokenizer.json", "tokenizer.model")
WANTED = ("*.json", "*.txt", "*.model", "model*.safetensors")
"""What is fetched of a repository: no pickles, no Python, none of the adapters of other languages."""

UNTRAINED_ONLY = re.compile(r"masked_spec_embed$")
"""Weights that may be missing, because only training uses them."""

COPY_AGAIN = "Copy the whole folder again"

_log = logging.getLogger(__name__)


def open_huggingface(
    place: str, revision: str | None = None, device: torch.device | str = "cpu", precision: Precision = "fp32"
) -> CtcTeacher:
    """Open a CTC model from a folder, or a repository such as ``facebook/wav2vec2-base-960h`` through its cache.

    Without a revision the newest commit of ``main`` is taken, which is logged.

    Raises:
        MissingExtraError: transformers is not installed.
        CheckpointError: files are missing or damaged, with the command that fetches them; or only a pickle is there.
        RecipeError: not a CTC model, or of a family whose frames are not known here.
    """
    _transformers()  # before anything is fetched
    folder, name = _folder_of(place, revision)
    _check_head(folder, place)
    _check_files(folder, place, revision, ((CONFIG,), EXTRACTORS, TOKENIZERS))
    files = _load(folder, name, _fetch_again(place, revision), is_ctc=True)
    config, extractor = files.config, files.extractor
    if extractor.sampling_rate != SAMPLE_RATE:
        raise RecipeError(f"was trained on {extractor.sampling_rate} Hz", where=name, expected=f"{SAMPLE_RATE} Hz")
    device, family = torch.device(device), _family(config, name)
    masks_padding = family.masks_padding(config)
    return CtcTeacher(
        name=name,
        weights_sha256=files.sha256,
        vocabulary=_vocabulary(files.tokenizer, config, name),
        geometry=family.geometry(config, extractor),
        features={
            "kind": type(extractor).__name__,
            "sample_rate": SAMPLE_RATE,
            "normalised": bool(getattr(extractor, "do_normalize", True)),
        },
        forward=_forward(files.model.to(device).eval(), extractor, masks_padding, device),
        masks_padding=masks_padding,
        device=device,
        precision=precision,
    )


class LoadedFiles(NamedTuple):
    """What transformers makes of a folder."""

    name: str
    sha256: str
    """Of the weights and of the settings that decide what is computed with them."""
    config: Any
    extractor: Any
    model: Any
    tokenizer: Any
    """None without a CTC head."""


def open_encoder_files(place: str, revision: str | None = None) -> LoadedFiles:
    """Open the model below the head of a folder, or of a repository of the hub, through its cache.

    Raises:
        MissingExtraError: transformers is not installed.
        CheckpointError: files are missing or damaged, or only a pickle is there.
    """
    _transformers()  # before anything is downloaded
    folder, name = _folder_of(place, revision)
    _check_files(folder, place, revision, ((CONFIG,), EXTRACTORS))
    return _load(folder, name, _fetch_again(place, revision), is_ctc=False)


def fetch_command(place: str, revision: str | None) -> str:
    """The shell command that fetches a repository into a folder."""
    patterns = " ".join(f"'{pattern}'" for pattern in WANTED)
    folder = place.rpartition("/")[2]
    return f"hf download {place} --revision {revision or 'main'} --include {patterns} --local-dir {folder}"


def _fetch_again(place: str, revision: str | None) -> str:
    return (
        COPY_AGAIN
        if user_path(place).is_dir()
        else f"If it is damaged, fetch it again: {fetch_command(place, revision)}"
    )


def _folder_of(place: str, revision: str | None) -> tuple[Path, str]:
    """Where the files lie, and what to call them: the commit is part of a repository's name."""
    folder = user_path(place)
    if folder.is_dir():
        return folder, folder.name
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", place):
        raise CheckpointError("does not exist", where=folder, expected="a folder, or OWNER/NAME of the hub")
    try:
        folder = snapshot(place, revision, WANTED)
    except HubError as error:
        what = f"{SINGLE} and {CONFIG} of {place}, {revision or 'main'}"
        raise _missing(what, place, revision, error.found) from error
    commit = folder.name
    if revision is None:
        _log.warning("hf:%s is at commit %s now; write hf:%s@%s to keep it there", place, commit, place, commit)
    return folder, f"{place}@{commit[:12]}"


def _missing(what: str, place: str, revision: str | None, reason: str) -> CheckpointError:
    is_folder = user_path(place).is_dir()
    command = "" if is_folder else f" Where there is a network, run: {fetch_command(place, revision)} — then copy the "
    return CheckpointError(
        f"{what} {'is' if is_folder else 'are'} not here" + (f" ({reason})" if reason else ""),
        where=f"hf:{place}",
        expected="the files of a CTC model, as save_pretrained writes them",
        remedy=COPY_AGAIN if is_folder else f"{command.strip()} folder here and write hf:FOLDER",
    )


def _check_head(folder: Path, place: str) -> None:
    """Refuse a model whose configuration names another head than CTC, or none."""
    try:
        named = list(loads_json((folder / CONFIG).read_text(encoding="utf-8")).get("architectures") or [])
    except (OSError, ValueError, AttributeError, TypeError):
        return  # reported below
    if named and not any("CTC" in str(name) for name in named):
        raise CheckpointError(
            f"is {', '.join(map(str, named))}, a model without a CTC head",
            where=f"hf:{place}",
            expected="a model that was fine-tuned with CTC (…ForCTC), with its tokenizer",
            remedy="Choose such a model, or train a head on this one: teachers.NAME.encoder.source: hf:REPO_OR_FOLDER",
        )


def _check_files(folder: Path, place: str, revision: str | None, groups: Sequence[Sequence[str]]) -> None:
    """One file of each group is there, and so are all the weights."""
    weights = _weight_files(folder, place, revision)
    for names in groups:
        if not any((folder / name).is_file() for name in names):
            raise _missing(f"{folder.name}/{names[0]}", place, revision, "")
    if not weights:
        pickles = sorted(file.name for file in folder.glob("*.bin"))
        raise CheckpointError(
            f"has no {SINGLE}" + (f", only {pickles[0]}" if pickles else ""),
            where=folder,
            expected=f"{SINGLE} at this revision: the pickles that older repositories hold instead can run code",
            remedy="Take a revision that has it (the hub's own conversion is often at refs/pr/N), or convert the model "
            'where you trust it: python -c "from transformers import AutoModelForCTC as M; '
            f"M.from_pretrained('{place}').save_pretrained('converted')\"",
        )
    for file in weights:
        if not file.is_file():
            raise _missing(f"{folder.name}/{file.name}", place, revision, "")


def _weight_files(folder: Path, place: str, revision: str | None) -> list[Path]:
    """The safetensors files that together hold the weights; one that is named but absent is among them."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        return []
    try:
        names = sorted(set(loads_json((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        return [folder / Path(name).name for name in names]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise _missing(f"{folder.name}/{INDEX} (readable)", place, revision, str(error)) from error


def _identity(folder: Path) -> str:
    """Of the weights, and of the settings that decide what is computed with them."""
    names = [SINGLE, CONFIG, *EXTRACTORS, *(file.name for file in folder.glob("model-*.safetensors"))]
    return sha256_of({name: sha256_of_file(folder / name) for name in sorted(names) if (folder / name).is_file()})


def _load(folder: Path, name: str, remedy: str, *, is_ctc: bool) -> LoadedFiles:
    """Load a CTC model with its tokenizer, or an encoder, which needs none."""
    model_class, what = ("AutoModelForCTC", "CTC model") if is_ctc else ("AutoModel", "encoder")
    transformers = _transformers()
    quiet = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **quiet)
        if is_ctc:
            _family(config, name)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, **quiet)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **quiet) if is_ctc else None
        model, report = getattr(transformers, model_class).from_pretrained(
            folder, **quiet, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except AsrKdError:
        raise
    except Exception as error:  # what the library raises for a malformed file has no common root
        raise CheckpointError(
            f"transformers {transformers.__version__} cannot open it ({' '.join(str(error).split())[:400]})",
            where=name,
            expected=f"a {what} saved with save_pretrained",
            remedy=remedy,
        ) from error
    missing = sorted(key for key in report["missing_keys"] if not UNTRAINED_ONLY.search(key))
    if missing:
        raise CheckpointError(
            f"lacks {len(missing)} of the {what}'s weights, {missing[0]} for one: they would be random",
            where=name,
            expected="all weights; those of a CTC model include a trained head",
        )
    return LoadedFiles(name, _identity(folder), config, extractor, model, tokenizer)


def _transformers() -> Any:
    transformers = import_extra("transformers", "hf")
    transformers.utils.logging.disable_progress_bar()  # it draws over the progress of a run
    return transformers


def _family(config: Any, name: str) -> Family:
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise RecipeError(
            f"is a {config.model_type!r} model",
            where=name,
            expected=f"a CTC model of one of the families {', '.join(sorted(FAMILIES))}",
        )
    return family


def _vocabulary(tokenizer: Any, config: Any, name: str) -> Vocabulary:
    ids = tokenizer.get_vocab()
    labels: list[str | None] = [None] * config.vocab_size
    for label, index in sorted(ids.items(), key=lambda item: item[1]):
        if index < len(labels) and labels[index] is None:
            labels[index] = label
    if config.pad_token_id != tokenizer.pad_token_id:
        raise CheckpointError(
            f"blank (pad) is {config.pad_token_id} in {CONFIG} and {tokenizer.pad_token_id} in the tokenizer",
            where=name,
            expected="one blank",
            remedy=f"Correct pad_token_id in a copy of {CONFIG}: it is the id that the model writes most often",
        )
    separator = getattr(tokenizer, "word_delimiter_token", None)
    return ctc_vocabulary(labels, config.pad_token_id, separator if separator in ids else None, name)


def _forward(model: Any, extractor: Any, masks_padding: bool, device: torch.device) -> Forward:
    def forward(waveforms: Sequence[Tensor]) -> Tensor:
        # Where padding is masked the mask is always given; elsewhere there is no padding, and the extractor gives
        # what its model was trained with: none for wav2vec2-base, for example.
        inputs = extractor(
            [waveform.cpu().numpy() for waveform in waveforms],
            sampling_rate=SAMPLE_RATE,
            padding="longest",
            return_attention_mask=True if masks_padding else None,
            return_tensors="pt",
        )
        return model(**{key: value.to(device) for key, value in inputs.items()}).logits

    return forward
