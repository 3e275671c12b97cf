"""SpeechBrain's CSV: ID, duration, wav, spk_id, wrd, and start and stop for a segment.

As its recipes write them and speechbrain.dataio.dataio.load_data_csv reads them: spaces after a comma are skipped, and
$name in a value stands for a folder (here: `data_root`, for any name). start and stop are samples in most recipes and
seconds in some; the duration decides.
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_kd.audio import DURATION_TOLERANCE_SECONDS, AudioInfo, ChannelPolicy
from asr_kd.corpora.formats.table import (
    UNKNOWN_SPEAKER,
    Rendering,
    Table,
    Unfit,
    audio_path,
    channel_notes,
    channel_policy,
    finite_number,
)
from asr_kd.corpora.manifest import Malformed, Utterance, read_text
from asr_kd.corpora.recordings import Exclusion, Recording, probe_all
from asr_kd.errors import AudioError, CorpusError

_COLUMNS = ("ID", "duration", "wav", "spk_id", "wrd")
_SEGMENT_COLUMNS = ("ID", "duration", "wav", "start", "stop", "spk_id", "wrd")
_KNOWN = (*_SEGMENT_COLUMNS, "wav_format", "wav_opts", "spk_id_format", "spk_id_opts", "wrd_format", "wrd_opts")
_VARIABLE = re.compile(r"\$\{?([\w.]+)\}?|\{([\w.]+)\}")
_SB_VARIABLE = re.compile(r"\$[\w.]")


def read(path: Path, data_root: Path | None, channels: ChannelPolicy) -> Table:
    """Read a CSV; an empty `wrd` means no transcript.

    Raises:
        CorpusError: unreadable, without its columns, or rows that are malformed or share an id.
    """
    text = read_text(path, "a CSV in UTF-8", "Check the path")
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    try:
        header, rows = reader.fieldnames or [], [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise CorpusError(
            f"not CSV ({error})", where=f"{path}:{reader.line_num}", expected="SpeechBrain's CSV"
        ) from error
    missing = [name for name in ("ID", "duration", "wav") if name not in header]
    if missing:
        raise CorpusError(
            f"no column {', '.join(missing)}", where=f"{path}:1", expected=f"the columns {', '.join(_COLUMNS)}"
        )
    variables = [found for _, row in rows if (found := _VARIABLE.search(row["wav"] or ""))]
    if variables and data_root is None:
        raise CorpusError(
            f"{len(variables)} rows have audio below {variables[0][0]}, which no setting names",
            where=path,
            expected="the folder that it stands for",
            remedy="Set corpus.data_root in a recipe, or write whole paths: asr-kd manifest convert --data-root",
        )
    table = Table(files=[path])
    infos = probe_all(_segment_files([row for _, row in rows], data_root, path.parent))

    def parse(row: dict[Any, Any]) -> Recording:
        recording = _recording(row, data_root, path.parent, infos)
        table.drop(row, _KNOWN if recording.channels is None else (*_KNOWN, "channels"))
        return recording

    table.collect(path, rows, parse)
    return table


def render(utterances: Sequence[Utterance]) -> Rendering:
    """Render a CSV; of segments, start and stop are in samples of their file."""
    rendering = Rendering({})
    columns = _COLUMNS if all(utterance.whole for utterance in utterances) else _SEGMENT_COLUMNS
    infos = probe_all(utterance.audio for utterance in utterances) if columns is _SEGMENT_COLUMNS else {}
    if any(utterance.channels != "refuse" for utterance in utterances):
        columns = (*columns, "channels")
    file = io.StringIO(newline="")
    # SpeechBrain skips spaces after a comma, but not inside quotes.
    spaces = any((u.text or "").startswith(" ") or u.speaker.startswith(" ") for u in utterances)
    writer = csv.DictWriter(
        file,
        columns,
        extrasaction="ignore",
        lineterminator="\n",
        quoting=csv.QUOTE_ALL if spaces else csv.QUOTE_MINIMAL,
    )
    writer.writeheader()
    for utterance in utterances:
        row = _row(utterance)
        info = infos.get(utterance.audio)
        problem = info.found if isinstance(info, AudioError) else _unwritable(row)
        if problem:
            rendering.excluded.append(Exclusion(utterance.id, utterance.audio, problem))
            continue
        if isinstance(info, AudioInfo):
            last = info.num_samples if utterance.whole else round(utterance.end * info.sample_rate)
            row |= {"start": round(utterance.start * info.sample_rate), "stop": last}
        writer.writerow(row)
        rendering.utterances += 1
        if utterance.text == "":
            rendering.dropped["an empty transcript (reads back as none)"] += 1
    rendering.notes += channel_notes(utterances, "SpeechBrain")
    rendering.texts[""] = file.getvalue()
    return rendering


def _row(utterance: Utterance) -> dict[str, Any]:
    return {
        "ID": utterance.id,
        "duration": utterance.duration,
        "wav": str(utterance.audio.absolute()),
        "spk_id": utterance.speaker,
        "wrd": utterance.text or "",
        "channels": "" if utterance.channels == "refuse" else utterance.channels,
    }


def _unwritable(row: dict[str, Any]) -> str | None:
    for column in ("wav", "spk_id", "wrd"):
        if _SB_VARIABLE.search(row[column]):
            return f"its {column} holds a $, which SpeechBrain takes for the name of a folder"
    return None


def _segment_files(rows: Sequence[dict[Any, Any]], data_root: Path | None, folder: Path) -> list[Path]:
    """Files whose sample rate decides the unit of start and stop; malformed rows are reported when they are parsed."""
    found = []
    for row in rows:
        try:
            if row.get("start") and row.get("stop") and not _fits(row, 1.0):
                found.append(_audio(row, data_root, folder))
        except (Malformed, Unfit):
            continue
    return found


def _recording(
    row: dict[Any, Any], data_root: Path | None, folder: Path, infos: dict[Path, AudioInfo | AudioError]
) -> Recording:
    if None in row or None in row.values():
        raise Malformed("not as many fields as the header")
    duration = finite_number(row["duration"], "duration")
    if duration <= 0:
        raise Malformed(f"duration is {row['duration']!r}, not a positive number of seconds")
    if row.get("wav_opts", "").strip():
        raise Unfit(f"wav_opts {row['wav_opts']!r} of SpeechBrain's old form: give start and stop", row["ID"])
    audio = _audio(row, data_root, folder)
    start, whole = 0.0, True
    if row.get("start") and row.get("stop"):
        start, whole = _segment(row, infos.get(audio))
    speaker, policy = row.get("spk_id") or UNKNOWN_SPEAKER, channel_policy(row.get("channels"))
    return Recording(row["ID"], audio, row.get("wrd") or None, speaker, duration, start, whole, policy)


def _segment(row: dict[Any, Any], info: AudioInfo | AudioError | None) -> tuple[float, bool]:
    """Start of the segment in seconds, and whether it is the whole file."""
    if _fits(row, 1.0):
        return finite_number(row["start"], "start"), False
    if isinstance(info, AudioError):
        raise Unfit(f"start and stop need the file's sample rate: {info.found}", row["ID"])
    if info is None or not _fits(row, info.sample_rate):
        raise Unfit(
            f"from {row['start']} to {row['stop']} is neither in samples nor in seconds its duration of "
            f"{row['duration']} s",
            row["ID"],
        )
    first, last = finite_number(row["start"], "start"), finite_number(row["stop"], "stop")
    return first / info.sample_rate, first == 0 and last == info.num_samples


def _fits(row: dict[Any, Any], rate: float) -> bool:
    """Whether start and stop, in steps of 1/rate s, agree with the duration."""
    found = (finite_number(row["stop"], "stop") - finite_number(row["start"], "start")) / rate
    return abs(found - finite_number(row["duration"], "duration")) <= DURATION_TOLERANCE_SECONDS


def _audio(row: dict[Any, Any], data_root: Path | None, folder: Path) -> Path:
    written = row["wav"] or ""
    if data_root is not None:
        written = _VARIABLE.sub(lambda match: str(data_root), written)
    return audio_path(written, data_root or folder, row["ID"])
