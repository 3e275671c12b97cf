"""Settings of corpora, and the folder where corpora are found."""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from asr_kd.audio import ChannelPolicy
from asr_kd.config import Settings, UserPath, user_path
from asr_kd.corpora.formats import ManifestFormat
from asr_kd.errors import CorpusError

CORPORA_VARIABLE = "ASR_KD_CORPORA"
"""Environment variable of the folder that holds the corpora, for settings without `root`."""

FolderChannels = ChannelPolicy | Literal["split"]
"""Policy for folders of audio; split: each of two channels, such as a side of a call, is utterances of its own."""

UNTRANSCRIBED = "untranscribed"
"""Name of the manifest of untranscribed audio."""

FURTHER_SPEECH = "further_speech"
"""Name of the manifest of transcribed speech that no teacher labels."""

TrainSplit = Literal["train-clean-100", "train-clean-360", "train-other-500"]
DevSplit = Literal["dev-clean", "dev-other"]
TestSplit = Literal["test-clean", "test-other"]


def _one_or_several(given: Any) -> Any:
    return [given] if isinstance(given, str | Path) else given


Paths = Annotated[list[UserPath], BeforeValidator(_one_or_several), Field(min_length=1)]
"""One path, or a list of them."""


class FileSettings(Settings):
    """Settings of every corpus of files."""

    no_effect: ClassVar[frozenset[str]] = frozenset({"max_excluded_share"})

    max_excluded_share: float = Field(0.01, ge=0, le=1)
    """Share of utterances that may be excluded (listed) before prepare stops: for missing or unreadable files, and for
    transcripts that the vocabulary cannot spell or CTC cannot emit."""
    channels: FolderChannels = "refuse"
    """Files of several channels: refuse them, take the first or the second, average, or, of folders of audio, split:
    each of two channels, such as the two sides of a call, becomes utterances of its own."""

    @property
    def row_channels(self) -> ChannelPolicy:
        """Policy for rows of manifests, which name a channel of their own where sides are split."""
        return "refuse" if self.channels == "split" else self.channels

    @model_validator(mode="after")
    def _check_split(self) -> "FileSettings":
        if self.channels == "split" and not isinstance(self, AudioFolders):
            raise ValueError("channels: split needs kind: folder; rows of manifests have channels: first or second")
        return self


class CorpusFolderSettings(FileSettings):
    """Settings of every corpus in its publisher's layout."""

    root: UserPath | None = None
    """The corpus' own folder or its parent; None: the environment variable ASR_KD_CORPORA."""


class An4Settings(CorpusFolderSettings):
    """AN4 (CMU, 1991) in its publisher's layout."""

    kind: Literal["an4"] = "an4"
    """This corpus."""
    fold: Literal[0, 1, 2, 3, "none"] = 0
    """The fold of speakers that is `devtest`; none: all speakers but those of `dev` are trained on."""
    seed: int = 0
    """Decides which speakers form a fold; results are comparable only under one seed."""


class LibriSpeechSettings(CorpusFolderSettings):
    """Any subset of LibriSpeech's splits, by their own names."""

    kind: Literal["librispeech"] = "librispeech"
    """This corpus."""
    train: list[TrainSplit] = Field(default=["train-clean-100"], min_length=1)
    """Splits of the training set."""
    dev: list[DevSplit | TrainSplit] = Field(default=["dev-clean"], min_length=1)
    """Splits for decisions during training; each is a set of the report."""
    test: list[TestSplit | DevSplit] = Field(default=["test-clean", "test-other"])
    """Missing splits are skipped and named, unlike those of train and dev."""

    @model_validator(mode="after")
    def _check_splits(self) -> "LibriSpeechSettings":
        twice = [split for split, count in Counter([*self.train, *self.dev, *self.test]).items() if count > 1]
        if twice:
            raise ValueError(f"{', '.join(twice)} occurs more than once among train, dev and test")
        return self


class ManifestFiles(FileSettings):
    """How manifests are read."""

    format: ManifestFormat = "auto"
    """Format of all manifests; auto detects that of each."""
    data_root: UserPath | None = None
    """Folder that relative audio paths of manifests start at; None: each manifest's folder."""


class OwnSettings(ManifestFiles):
    """Settings of a user's own speech: evaluation sets as manifests."""

    dev: Paths
    """Manifests of the dev set: a file, a Kaldi or lhotse folder, or several, as one set."""
    test: dict[str, UserPath] = Field(default={})
    """Name → manifest of every test set."""

    @field_validator("test")
    @classmethod
    def _check_names(cls, test: dict[str, UserPath]) -> dict[str, Path]:
        taken = ("train", "dev", UNTRANSCRIBED, FURTHER_SPEECH)
        for name in test:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or name in taken:
                raise ValueError(f"the name {name!r} must be letters, digits, '.', '_', '-', and not train or dev")
        return test


class ManifestSettings(OwnSettings):
    """Speech listed by manifests of this project, lhotse, NeMo, SpeechBrain or Kaldi."""

    kind: Literal["manifest"] = "manifest"
    """This corpus."""
    train: Paths
    """Manifests of the training set, as one set; rows without a transcript are usable for distillation only."""


class FurtherSpeechSettings(ManifestFiles):
    """Transcribed speech that no teacher labels, such as what `asr-kd synthesize` writes."""

    manifests: Paths
    """Manifests, as one set. Audio of the corpus itself is excluded (listed)."""


class AudioFolders(FileSettings):
    """Settings that turn folders of audio into utterances."""

    extensions: tuple[str, ...] = (".flac", ".wav", ".ogg", ".opus", ".mp3")
    """Endings of the names of audio files, in lower case; other files are ignored."""
    speakers: Literal["folders", "one"] = "folders"
    """Speakers are the first sub-folders, or each folder is one speaker."""
    min_seconds: float = Field(0.5, ge=0.1)
    """Shorter files are excluded (listed)."""
    max_seconds: float = Field(30.0, ge=1)
    """Longer files are cut into segments at their quietest points, without copying them."""
    cut_window_seconds: float = Field(5.0, ge=0.2)
    """Seconds before `max_seconds` in which the quietest point is searched."""

    @field_validator("extensions")
    @classmethod
    def _check_endings(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [ending for ending in extensions if not re.fullmatch(r"\.[a-z0-9]+", ending)]
        if wrong or not extensions:
            raise ValueError(f"{wrong[0]!r} must be a dot and lower-case letters" if wrong else "at least one ending")
        return extensions

    @model_validator(mode="after")
    def _check_lengths(self) -> "AudioFolders":
        if self.max_seconds < self.cut_window_seconds + 2 * self.min_seconds:
            raise ValueError(
                "max_seconds must be at least cut_window_seconds + 2 × min_seconds, or pieces are too short"
            )
        return self


class FolderSettings(AudioFolders, OwnSettings):
    """Untranscribed audio in folders, for distillation; dev and test sets have transcripts."""

    kind: Literal["folder"] = "folder"
    """This corpus."""
    train: Paths
    """Folders that are searched for audio, at any depth."""
    dev: Annotated[list[UserPath], BeforeValidator(_one_or_several)] = Field(default=[])
    """Manifests of the dev set. Empty: a part of the recordings is held out, and the recipe's first `hypotheses` are
    its transcripts, so that its WER is the distance to that model."""
    held_out_share: float = Field(0.1, gt=0, lt=0.5)
    """Share of the audio that is held out without `dev`, at most an hour; whole speakers where there are several, and
    where each of them has more, the one with the least."""


class UntranscribedSettings(AudioFolders):
    """Audio beside the corpus without transcripts, or whose transcripts are not used."""

    folders: Paths
    """Folders that are searched for audio, at any depth. Audio of the corpus itself is excluded (listed)."""


class SyntheticSettings(Settings):
    """A corpus synthesized by eSpeak NG: for demos and tests, no evidence about real speech."""

    kind: Literal["synthetic"] = "synthetic"
    """This corpus."""
    root: UserPath | None = None
    """Parent of `synthetic/`; None: `corpus/` in the run's work_dir."""
    train_utterances: int = Field(1200, ge=1)
    """Size of the training set."""
    dev_utterances: int = Field(100, ge=1)
    """Size of the dev set."""
    test_utterances: int = Field(200, ge=1)
    """Size of the test set."""
    train_speakers: int = Field(40, ge=1)
    """Speakers of the training set; no voice is in two sets."""
    dev_speakers: int = Field(6, ge=1)
    """Speakers of the dev set."""
    test_speakers: int = Field(10, ge=1)
    """Speakers of the test set."""
    topics: tuple[str, ...] = ()
    """Topics of sentences, by their names in grammar.txt (home, digits, …); empty: all."""
    noise_db: tuple[float, float] = (-60.0, -35.0)
    """Range of the white noise's level relative to full scale, drawn per utterance."""
    seed: int = 0
    """Seed of voices, sentences and noise."""

    @model_validator(mode="after")
    def _check_ranges(self) -> "SyntheticSettings":
        if not -120 <= self.noise_db[0] <= self.noise_db[1] <= -10:
            raise ValueError("noise_db must be two levels, the lower first, from -120 to -10 dB")
        for split in ("train", "dev", "test"):
            if getattr(self, f"{split}_speakers") > getattr(self, f"{split}_utterances"):
                raise ValueError(f"{split}_speakers must not exceed {split}_utterances")
        return self


AnyCorpus = An4Settings | LibriSpeechSettings | SyntheticSettings | ManifestSettings | FolderSettings

CorpusSettings = Annotated[AnyCorpus, Field(discriminator="kind")]
"""Any corpus, discriminated by `kind`."""

LIBRISPEECH_SPLITS: tuple[str, ...] = get_args(TrainSplit) + get_args(DevSplit) + get_args(TestSplit)


def corpora_root(root: Path | None) -> Path:
    """Return the folder to search for a corpus: `root`, or that of ASR_KD_CORPORA.

    Raises:
        CorpusError: neither is given, or it is not a folder.
    """
    given = root if root is not None else os.environ.get(CORPORA_VARIABLE)
    if not given:
        raise CorpusError(
            "no folder of corpora is given",
            expected=f"corpus.root in the recipe, or the environment variable {CORPORA_VARIABLE}",
            remedy=f"Set {CORPORA_VARIABLE}=/folder/that/holds/the/corpora and run again",
        )
    folder = user_path(given)
    if not folder.is_dir():
        raise CorpusError(
            "no such folder",
            where=folder,
            expected="a folder of corpora",
            remedy=f"Check corpus.root or {CORPORA_VARIABLE}",
        )
    return folder
