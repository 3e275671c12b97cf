"""Errors for users: one root, and one form of message.

Every message names what was found, what was expected, where, and
what to do next; programming mistakes keep Python's own exceptions.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

INTERRUPT_CODE = 130
"""Exit code after Ctrl-C."""
INTERRUPTED = "interrupted. Finished work is kept: run the same command again to resume from the last checkpoint"


EXAMPLES = 3
"""How many names a message lists."""


def examples(names: Sequence[str], separator: str = ", ") -> str:
    """The first names, for a message."""
    return separator.join(names[:EXAMPLES]) + (f"{separator}…" if len(names) > EXAMPLES else "")


class AsrKdError(Exception):
    """Root of all errors that are about the user's data, files or settings.

    Args:
        found: what was found, as a statement.
        expected: what would have been right.
        where: the file, row, key or stage.
        remedy: the next thing to do.
    """

    exit_code = 1

    def __init__(self, found: str, *, expected: str = "", where: str | Path = "", remedy: str = "") -> None:
        self.found, self.expected, self.where, self.remedy = found, expected, str(where), remedy
        message = f"{self.where}: {found}" if self.where else found
        if expected:
            message += f"; expected {expected}"
        if remedy:
            message += f"{'' if message.endswith('?') else '.'} {remedy}"
        super().__init__(" ".join(message.split()))  # what a library said may have several lines


class RecipeError(AsrKdError):
    """A recipe, or an override of one of its keys, is not valid."""


class AudioError(AsrKdError):
    """An audio file is missing, damaged or not as its manifest states.

    `problem` is its kind, in a few words that stay the same: what reports count by.
    """

    def __init__(
        self,
        found: str,
        *,
        problem: str = "damaged audio",
        expected: str = "",
        where: str | Path = "",
        remedy: str = "",
    ) -> None:
        self.problem = problem
        super().__init__(found, expected=expected, where=where, remedy=remedy)


class CorpusError(AsrKdError):
    """A corpus folder or manifest is not what it should be."""


class VocabularyError(AsrKdError):
    """Text or tokens do not fit the vocabulary."""


class TargetsError(AsrKdError):
    """A soft-target store is damaged, of another version, or belongs to something else."""


class CheckpointError(AsrKdError):
    """A checkpoint or model folder is missing, damaged or unsafe."""


class BundleError(AsrKdError):
    """An exported bundle is missing, damaged, or does not do what its model does."""


class EvaluationError(AsrKdError):
    """References and hypotheses cannot be compared."""


class LanguageModelError(AsrKdError):
    """A language model, a lexicon or the text for one cannot be used."""


class TrainingError(AsrKdError):
    """Training cannot start or go on."""


class ServeError(AsrKdError):
    """A server cannot start: its address, its certificate, its page."""


class HubError(AsrKdError):
    """A repository of the hub cannot be read or written."""


class MissingExtraError(AsrKdError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package!r} is not installed",
            remedy=f"Install the extra that brings it: pip install 'asr-kd[{extra}]'",
        )


def import_extra(module: str, extra: str, package: str = "") -> Any:
    """Import a module of an optional dependency.

    Raises:
        MissingExtraError: it is not installed; names the package, by default the module, and the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(package or module, extra) from error


class StoppedEarly(AsrKdError):
    """Work stopped on request (time limit or signal) with its state saved; running again goes on."""

    exit_code = 75  # EX_TEMPFAIL: what batch systems read as "requeue me"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a lack of memory, of a GPU or of the CPU, whose allocator raises a plain RuntimeError."""
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)  # torch is not imported here
    return named or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
