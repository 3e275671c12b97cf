"""Utterances in any number and shape, for round trips; imported by the tests beside it."""

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from asr_kd.corpora.formats.catalogue import complete, read_table, render
from asr_kd.corpora.formats.table import Rendering, Table
from asr_kd.corpora.manifest import Utterance

FILES = ("one.flac", "two words.wav", "eight.wav")
WORDS = st.lists(st.text("ABÉß'\"$,;|{}<>#-", min_size=1, max_size=5), max_size=4).map(" ".join)
NAMES = st.text("abcé0-_.", min_size=1, max_size=12).filter(lambda name: ".." not in name)


@st.composite
def utterances(draw: st.DrawFn, speech: Path, *, transcribed: bool | None = None) -> list[Utterance]:
    """Whole files and segments of them, on the samples of 8 kHz; `transcribed`: all, none, or (None) some."""
    made = []
    for name in draw(st.lists(NAMES, unique=True, min_size=1, max_size=5)):
        first, last = sorted(draw(st.lists(st.integers(0, 32_000), min_size=2, max_size=2, unique=True)))
        whole = draw(st.booleans())
        has_text = draw(st.booleans()) if transcribed is None else transcribed
        made.append(
            Utterance(
                name,
                speech / draw(st.sampled_from(FILES)),
                4.0 if whole else max((last - first) / 8_000, 0.1),
                draw(WORDS) if has_text else None,
                draw(st.sampled_from(["a", "b-2", "é"])),
                start=0.0 if whole else min(first / 8_000, 3.9),
                whole=whole,
            )
        )
    return made


def through(path: Path, written: list[Utterance], name: Any) -> tuple[list[Utterance], Rendering, Table]:
    """Rendered, written as they would be, and read back."""
    rendering = render(written, name)
    path.parent.mkdir(exist_ok=True, parents=True)
    for file, text in rendering.texts.items():
        target = path / file if file else path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
    table = read_table(path, name)
    found, unreadable = complete(table.recordings, "refuse")
    assert unreadable == []
    return found, rendering, table


def reasons(table: Table | Rendering) -> dict[str, str]:
    """Id → why it was left out."""
    return {item.id: item.reason for item in table.excluded}
