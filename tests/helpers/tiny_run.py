"""The tiny recipe and the command line, as the tests beside this call them."""

import contextlib
import io
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from asr_kd.cli import main
from asr_kd.files import sha256_of_file

ROOT = Path(__file__).parents[2]
RECIPE = Path(__file__).with_name("tiny.yaml")


@dataclass(frozen=True)
class Outcome:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def did(self) -> list[str]:
        """What happened to each task: 'prepare: skipped', 'student student-kd: starts', …"""
        words = {"starts": "starts", "resumes": "resumes", "runs again": "again", "unchanged, skipped": "skipped"}
        lines = [line for line in self.out.splitlines() if line.startswith("[")]
        return [
            f"{line[1 : line.index(']')]}: {short}"
            for line in lines
            for said, short in words.items()
            if line.split("] ", 1)[1].startswith(said)
        ]


@dataclass(frozen=True)
class Run:
    """A run of the tiny recipe in a folder of its own; its corpus may be shared with other runs."""

    work_dir: Path
    corpus_root: Path

    def words(self, verb: str, *arguments: str) -> list[str]:
        """The command's words."""
        places = [f"work_dir={self.work_dir}", f"corpus.root={self.corpus_root}"]
        return [verb, str(RECIPE), *places, *arguments]

    def command(self, verb: str, *arguments: str) -> Outcome:
        """A verb on the tiny recipe, in this process."""
        return command(*self.words(verb, *arguments))

    def file(self, *parts: str) -> Path:
        return self.work_dir.joinpath(*parts)


def command(*words: str) -> Outcome:
    """The command line in this process: the very `main` that the console script calls."""
    out, err = io.StringIO(), io.StringIO()
    with (
        warnings.catch_warnings(),
        mock.patch.object(sys, "argv", ["asr-kd", *words]),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def hashes(folder: Path) -> dict[str, str]:
    """Relative path → SHA-256 of every file in a folder."""
    return {str(path.relative_to(folder)): sha256_of_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def one_line(outcome: Outcome, code: int = 1) -> str:
    """The only line that a refused command says, asserted to be that."""
    assert outcome.code == code, outcome
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("asr-kd: ")
    assert "Traceback" not in outcome.out
    return lines[0]
