"""NeMo's manifests: JSON Lines of audio_filepath, duration, text, and offset for a segment.

As NVIDIA NeMo's documentation lays them out ("Preparing Custom ASR Data") and its own reader,
nemo/collections/common/parts/preprocessing/manifest.py, takes them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_kd.audio import ChannelPolicy
from asr_kd.config import user_path
from asr_kd.corpora.formats.table import (
    UNKNOWN_SPEAKER,
    Rendering,
    Table,
    Unfit,
    audio_path,
    channel_notes,
    channel_policy,
    names_of_files,
    numbered_lines,
    segment_name,
)
from asr_kd.corpora.manifest import Malformed, Utterance, json_object, optional_text, positive_seconds, seconds
from asr_kd.corpora.recordings import Recording
from asr_kd.files import json_lines

_KNOWN = ("audio_filepath", "audio_filename", "duration", "text", "normalized_text", "offset", "speaker", "id")


def read(path: Path, data_root: Path | None, channels: ChannelPolicy) -> Table:
    """Read a manifest. A row's id is its `id`, or is made of the file's name and the offset.

    Raises:
        CorpusError: unreadable, or rows that are malformed or share an id.
    """
    base = data_root or path.parent
    table = Table(files=[path])
    rows = list(numbered_lines(path))
    names = names_of_files(_audio_files([line for _, line in rows], base))

    def parse(line: str) -> Recording:
        row = json_object(line)
        recording = _recording(row, base, names)
        table.drop(row, _KNOWN if recording.channels is None else (*_KNOWN, "channels"))
        if recording.id != row.get("id"):
            table.made.add(recording.id)
        return recording

    table.collect(path, rows, parse)
    return table


def render(utterances: Sequence[Utterance]) -> Rendering:
    """Render a manifest; `id`, `speaker` and `channels` are stored in keys that NeMo ignores."""
    rendering = Rendering({}, len(utterances))
    rows = []
    for utterance in utterances:
        row: dict[str, Any] = {"audio_filepath": str(utterance.audio.absolute()), "duration": utterance.duration}
        if not utterance.whole:
            row["offset"] = utterance.start
        if utterance.text is not None:
            row["text"] = utterance.text
        row |= {"id": utterance.id, "speaker": utterance.speaker}
        if utterance.channels != "refuse":
            row["channels"] = utterance.channels
        rows.append(row)
    rendering.notes += channel_notes(utterances, "NeMo")
    rendering.texts[""] = json_lines(rows)
    return rendering


def _audio_files(lines: Sequence[str], base: Path) -> list[Path]:
    """The files of all rows that have one; other rows are reported when they are parsed."""
    found = []
    for line in lines:
        try:
            found.append(_audio(json_object(line), base))
        except (Malformed, Unfit):
            continue
    return found


def _recording(row: dict[str, Any], base: Path, names: dict[Path, str]) -> Recording:
    audio = _audio(row, base)
    name = row.get("id")
    if "shard_id" in row:
        raise Unfit("its audio lies in a tar archive (shard_id): unpack it", str(name or audio.name))
    if "text" not in row and "text_filepath" in row:
        raise Unfit("its text lies in a file of its own (text_filepath)", str(name or audio.name))
    offset, speaker = row.get("offset"), row.get("speaker")  # a number in manifests for speech synthesis
    start = 0.0 if offset is None else seconds(row, "offset")
    if not isinstance(name, str) or not name:
        name = names[audio] if offset is None else segment_name(names[audio], start)
    return Recording(
        name,
        audio,
        optional_text(row, "text" if "text" in row else "normalized_text"),
        str(speaker) if type(speaker) is int else optional_text(row, "speaker") or UNKNOWN_SPEAKER,
        positive_seconds(row, "duration"),
        start,
        whole=offset is None,
        channels=channel_policy(row.get("channels")),
    )


def _audio(row: dict[str, Any], base: Path) -> Path:
    written = row.get("audio_filename", row.get("audio_filepath"))
    if isinstance(written, list):
        raise Unfit(f"several files ({len(written)}) for one row")
    if not isinstance(written, str):
        raise Malformed("no audio_filepath")
    return audio_path(str(user_path(written)) if written.startswith("~") else written, base, str(row.get("id", "")))
