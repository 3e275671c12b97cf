"""The Hugging Face Hub for models, bundles and soft targets of this project: `hf:USER/NAME[@REVISION]`.

Downloads take files by name patterns that hold no code, and what opens them compares their hashes; nothing is run. Only
this file uses huggingface_hub (extra `hub`).
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from asr_kd.errors import HubError, import_extra

PREFIX = "hf:"
PATTERNS = ("*.json", "*.jsonl", "*.safetensors", "*.onnx", "*.pt2", "tokens.txt", "bpe.model", "README.md")

_REPOSITORY = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")

Kind = Literal["model", "dataset"]

MODEL_FILE = "model.json"

# Which file tells what a folder is, and which files belong to it.
_KINDS: dict[str, tuple[Kind, str, tuple[str, ...]]] = {
    "bundle.json": ("model", "a bundle", ("*.onnx", "*.pt2", "bundle.json", "tokens.txt", "bpe.model", "examples/*")),
    MODEL_FILE: ("model", "a model folder", (MODEL_FILE, "model.safetensors", "tokens.txt", "bpe.model")),
    "store.json": (
        "dataset",
        "soft targets",
        ("*.json", "quarantine.jsonl", "tokens.txt", "bpe.model", "shard-*.safetensors"),
    ),
}


@dataclass(frozen=True)
class Upload:
    """What a push uploads."""

    repo: str
    kind: Kind
    what: str
    folder: Path
    files: tuple[Path, ...]
    card: Path | None  # uploaded as README.md

    @property
    def named(self) -> list[tuple[str, Path]]:
        """The files by their names in the repository."""
        named = [(path.relative_to(self.folder).as_posix(), path) for path in self.files]
        return named + ([("README.md", self.card)] if self.card else [])

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for _, path in self.named)

    def lines(self) -> list[str]:
        """Return the list that a dry run prints."""
        rows = [f"  {name}  {path.stat().st_size:,} bytes" for name, path in self.named]
        return [f"{self.what} {self.folder} → {self.kind} {self.repo}: {self.num_bytes:,} bytes", *rows]


def is_repository(place: str | Path) -> bool:
    """Whether a place is written as `hf:USER/NAME[@REVISION]`."""
    return str(place).startswith(PREFIX)


def local_folder(place: str | Path, kind: Kind = "model") -> Path:
    """Return a folder as it is, or the local snapshot of `hf:USER/NAME[@REVISION]`, downloaded where it is needed.

    Raises:
        HubError: not such a name, no such repository or revision, or no network and no copy in the cache.
        MissingExtraError: huggingface_hub is not installed.
    """
    if not is_repository(place):
        return Path(place)
    found = _REPOSITORY.fullmatch(str(place))
    if found is None:
        raise HubError(
            "is not the name of a repository", where=str(place), expected="hf:USER/NAME or hf:USER/NAME@REVISION"
        )
    return snapshot(found["repo"], found["revision"], PATTERNS, kind)


def snapshot(repo: str, revision: str | None, patterns: Sequence[str], kind: Kind = "model") -> Path:
    """Return the local snapshot of a repository, with the files whose names match, downloaded where it is needed.

    Raises:
        HubError: no such repository or revision, or no network and no copy in the cache.
        MissingExtraError: huggingface_hub is not installed.
    """
    hub = _library()
    try:
        return Path(hub.snapshot_download(repo, repo_type=kind, revision=revision, allow_patterns=list(patterns)))
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise HubError(
            f"cannot be downloaded ({_reason(error)})",
            where=f"{PREFIX}{repo}",
            expected=f"a {kind} repository with the revision {revision or 'main'}, a network, and access to it",
            remedy="Check name and revision; log in with `hf auth login` where it is private",
        ) from error


def own_model(repo: str, revision: str | None) -> Path | None:
    """Return the local snapshot of a repository that holds a model folder of this project; None for any other."""
    if os.path.exists(os.path.expanduser(repo)):
        return None
    hub = _library()
    try:
        hub.hf_hub_download(repo, MODEL_FILE, revision=revision)
    except (hub.errors.HfHubHTTPError, OSError, ValueError):  # not there, or no network: what opens it says so
        return None
    return local_folder(f"{PREFIX}{repo}" + (f"@{revision}" if revision else ""))


def plan_push(folder: Path, repo: str, card: Path | None = None) -> Upload:
    """Return what pushing a bundle, a model folder or soft targets to USER/NAME would upload; nothing is sent.

    Without a model card it is README.md of the folder, or the card beside its run's report.

    Raises:
        HubError: not such a folder or name.
    """
    repo = repo.removeprefix(PREFIX)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise HubError("is not the name of a repository", where=repo, expected="USER/NAME")
    marker = next((name for name in _KINDS if (folder / name).is_file()), None)
    if marker is None:
        raise HubError("is nothing that can be pushed", where=folder, expected=f"a folder with {', '.join(_KINDS)}")
    kind, what, patterns = _KINDS[marker]
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return Upload(repo, kind, what, folder, tuple(files), card or _card_of(folder))


def push(upload: Upload, *, private: bool = True, revision: str | None = None) -> str:
    """Upload in one commit, so that an interrupted push leaves the repository as it was; return the commit's address.

    Raises:
        HubError: no access, no network, or the upload was interrupted.
        MissingExtraError: huggingface_hub is not installed.
    """
    hub = _library()
    api = hub.HfApi()
    operations = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in upload.named]
    try:
        api.create_repo(upload.repo, repo_type=upload.kind, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(upload.repo, branch=revision, repo_type=upload.kind, exist_ok=True)
        commit = api.create_commit(
            upload.repo, operations, commit_message=f"{upload.what} of asr-kd", repo_type=upload.kind, revision=revision
        )
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise HubError(
            f"cannot be uploaded ({_reason(error)})",
            where=f"{PREFIX}{upload.repo}",
            expected="a token that may write there, and a network",
            remedy="Log in with `hf auth login`; nothing was changed, run the same command again",
        ) from error
    return str(commit.commit_url)


def _card_of(folder: Path) -> Path | None:
    """README.md of a bundle, or the card that evaluation wrote for RUN/students/NAME/model."""
    own = folder / "README.md"
    if own.is_file():
        return own
    parts = folder.absolute().parts
    if len(parts) > 3 and parts[-1] == "model":
        card = folder.absolute().parents[2] / "report" / "cards" / f"{parts[-2]}.md"
        return card if card.is_file() else None
    return None


def _library() -> Any:
    import_extra("huggingface_hub.errors", "hub", "huggingface_hub")
    return import_extra("huggingface_hub", "hub")


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
