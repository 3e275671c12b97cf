"""NIST's sclite and sc_stats for the tests: run, and their files read. Debian's package is called sctk."""

import re
import shutil
import subprocess
from pathlib import Path

from asr_kd.scoring.wer import Alignment, Edit

MISSING = "sclite is not installed (Debian: apt install sctk)"
_KINDS = {"C": "equal", "S": "substitute", "D": "delete", "I": "insert"}


def command(tool: str) -> list[str]:
    """How the tool is called here; Debian puts all of them behind `sctk`."""
    if shutil.which(tool):
        return [tool]
    return ["sctk", tool] if shutil.which("sctk") else []


def run(tool: str, *arguments: str, folder: Path, text: str | None = None) -> str:
    """Standard output."""
    done = subprocess.run(
        [*command(tool), *arguments], cwd=folder, input=text, capture_output=True, text=True, check=True, timeout=600
    )
    return done.stdout


def sgml(reference: Path, hypothesis: Path, *more: str) -> str:
    """sclite's alignments of two trn files beside each other."""
    arguments = ["-r", reference.name, "trn", "-h", hypothesis.name, "trn", "-i", "spu_id", "-o", "sgml", "stdout"]
    return run("sclite", *arguments, *more, folder=reference.parent)


def paths(written: str) -> dict[str, list[tuple[str, str, str]]]:
    """Utterance id → (kind, reference word, hypothesis word) of an sgml file."""
    found = {}
    for path in re.finditer(r'<PATH id="\(([^"]+)\)"[^>]*>\n(.*?)\n?</PATH>', written, re.DOTALL):
        cells = re.findall(r'([CSDI]),(?:"([^"]*)")?,(?:"([^"]*)")?', path[2])
        found[path[1]] = cells
    return found


def alignment(cells: list[tuple[str, str, str]]) -> Alignment:
    """An sgml path, an edit a word."""
    edits, reference, hypothesis = [], 0, 0
    for kind, _, _ in cells:
        after, written = reference + (kind != "I"), hypothesis + (kind != "D")
        edits.append(Edit(_KINDS[kind], reference, after, hypothesis, written))
        reference, hypothesis = after, written
    return tuple(edits)
