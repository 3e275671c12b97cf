"""What a recipe can say about its corpus, and where corpora lie.

Knows the names of folders and splits, not how a corpus is read.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from asr_kd.audio import ChannelPolicy
from asr_kd.config import Settings
from asr_kd.errors import CorpusError

CORPORA_VARIABLE = "ASR_KD_CORPORA"
"""Environment variable of the folder that holds the corpora, for settings without `root`."""

TrainSplit = Literal["train-clean-100", "train-clean-360", "train-other-500"]
DevSplit = Literal["dev-clean", "dev-other"]
TestSplit = Literal["test-clean", "test-other"]


class CorpusFolderSettings(Settings):
    """What every corpus on disk has."""

    root: Path | None = None
    """The corpus' own folder or its parent; None: the environment variable ASR_KD_CORPORA."""
    max_excluded_share: float = Field(0.01, ge=0, le=1)
    """Share of utterances that may be left out (listed) for missing or unreadable files before prepare stops."""
    channels: ChannelPolicy = "refuse"
    """Files of several channels: refuse them, take the first, or average; the same wherever they are read."""


class An4Settings(CorpusFolderSettings):
    """AN4 (CMU, 1991) in its publisher's layout."""

    kind: Literal["an4"] = "an4"
    fold: Literal[0, 1, 2, 3, "none"] = 0
    """The fold of speakers that is `devtest`; none: all but `dev` trains, for use with the official test."""
    seed: int = 0
    """Decides which speakers form a fold; results are comparable only under one seed."""


class LibriSpeechSettings(CorpusFolderSettings):
    """Any subset of LibriSpeech's splits, by their own names."""

    kind: Literal["librispeech"] = "librispeech"
    train: list[TrainSplit] = Field(default=["train-clean-100"], min_length=1)
    dev: list[DevSplit | TrainSplit] = Field(default=["dev-clean"], min_length=1)
    test: list[TestSplit | DevSplit] = Field(default=["test-clean", "test-other"])
    """Splits that are not on the disk are skipped and named, unlike those of train and dev."""

    @model_validator(mode="after")
    def _each_split_once(self) -> "LibriSpeechSettings":
        twice = [split for split, count in Counter([*self.train, *self.dev, *self.test]).items() if count > 1]
        if twice:
            raise ValueError(f"{', '.join(twice)} stands more than once among train, dev and test")
        return self


class SyntheticSettings(Settings):
    """A LibriSpeech-layout corpus spoken by eSpeak NG: for demos and tests, never evidence about real speech."""

    kind: Literal["synthetic"] = "synthetic"
    root: Path | None = None
    """Where `synthetic/` is written; None: `corpus/` in the run's work_dir."""
    train_utterances: int = Field(1200, ge=1)
    dev_utterances: int = Field(100, ge=1)
    test_utterances: int = Field(200, ge=1)
    train_speakers: int = Field(40, ge=1)
    dev_speakers: int = Field(6, ge=1)
    test_speakers: int = Field(10, ge=1)
    topics: tuple[str, ...] = ()
    """What sentences are about, by the names in grammar.txt (home, digits, …); empty takes them all."""
    noise_db: tuple[float, float] = (-60.0, -35.0)
    """Range of the white noise's level against full scale, one level an utterance."""
    seed: int = 0

    @model_validator(mode="after")
    def _ranges_in_order(self) -> "SyntheticSettings":
        if not -120 <= self.noise_db[0] <= self.noise_db[1] <= -10:
            raise ValueError("noise_db must be two levels, the lower first, from -120 to -10 dB")
        for split in ("train", "dev", "test"):
            if getattr(self, f"{split}_speakers") > getattr(self, f"{split}_utterances"):
                raise ValueError(f"{split}_speakers must not exceed {split}_utterances")
        return self


CorpusSettings = Annotated[An4Settings | LibriSpeechSettings | SyntheticSettings, Field(discriminator="kind")]
"""Any corpus, told apart by `kind`."""

LIBRISPEECH_SPLITS: tuple[str, ...] = get_args(TrainSplit) + get_args(DevSplit) + get_args(TestSplit)


def corpora_root(root: Path | None) -> Path:
    """The folder to look for a corpus in: `root`, or what ASR_KD_CORPORA names.

    Raises:
        CorpusError: neither is given, or it is no folder.
    """
    given = root if root is not None else os.environ.get(CORPORA_VARIABLE)
    if not given:
        raise CorpusError(
            "no folder of corpora is given",
            expected=f"corpus.root in the recipe, or the environment variable {CORPORA_VARIABLE}",
            remedy=f"Set {CORPORA_VARIABLE}=/folder/that/holds/the/corpora and run again",
        )
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise CorpusError(
            "no such folder",
            where=folder,
            expected="a folder of corpora",
            remedy=f"Check corpus.root or {CORPORA_VARIABLE}",
        )
    return folder
