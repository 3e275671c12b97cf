"""lhotse's manifests: cuts, or recordings with their supervisions; JSON Lines, gzipped or not.

As lhotse 1.x writes them (MonoCut.to_dict and so on). A cut is an utterance when it is one part of one file with at
most one supervision; mixed, padded and perturbed cuts, and cuts of features only, are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_kd.audio import DURATION_TOLERANCE_SECONDS, AudioInfo, ChannelPolicy, length_problem
from asr_kd.corpora.formats.table import (
    UNKNOWN_SPEAKER,
    Rendering,
    Table,
    Unfit,
    audio_path,
    numbered_lines,
    recording_names,
)
from asr_kd.corpora.manifest import (
    Malformed,
    Utterance,
    json_object,
    optional_text,
    positive_seconds,
    raise_wrong_rows,
    required_text,
    seconds,
)
from asr_kd.corpora.recordings import Exclusion, Recording, probe_all
from asr_kd.errors import AudioError, CorpusError
from asr_kd.files import json_lines

_RECORDINGS, _SUPERVISIONS = "recordings", "supervisions"
_CUT_KEYS = ("id", "start", "duration", "channel", "supervisions", "recording", "type")
_SUPERVISION_KEYS = ("id", "recording_id", "start", "duration", "channel", "text", "speaker")


def read(path: Path, data_root: Path | None, channels: ChannelPolicy) -> Table:
    """Read cuts, or a pair of recordings and supervisions, given either file of the pair or its folder.

    Relative paths start at `data_root`, else at the manifest's folder.

    Raises:
        CorpusError: unreadable, no such pair, or rows that are malformed or share an id.
    """
    pair = _pair(path)
    base = data_root or pair[0].parent
    if pair[1] is not None:
        return _read_supervisions(pair[0], pair[1], base, channels)
    table = Table(files=[pair[0]])

    def parse(line: str) -> Recording:
        row = json_object(line)
        if "sources" in row:
            file = _file_of(row, base)
            policy = _policy(file.channel_ids, file.channel_ids, channels, row["id"])
            return Recording(row["id"], file.audio, None, UNKNOWN_SPEAKER, file.duration, channels=policy)
        return _cut(row, base, channels, table)

    table.collect(pair[0], numbered_lines(pair[0]), parse)
    return table


def render(utterances: Sequence[Utterance]) -> Rendering:
    """Render cuts; each file is opened, because a cut states its sample rate and length."""
    rendering = Rendering({})
    infos, names = probe_all(utterance.audio for utterance in utterances), recording_names(utterances)
    rows = []
    for utterance in utterances:
        info = infos[utterance.audio]
        if isinstance(info, AudioError):
            problem: str | None = info.found
        else:
            problem = length_problem(info, utterance.duration, None if utterance.whole else utterance.start)
        if problem or isinstance(info, AudioError):
            rendering.excluded.append(Exclusion(utterance.id, utterance.audio, problem or "cannot be read"))
            continue
        if utterance.channels == "mean" and info.channels > 1:
            rendering.dropped["channels: mean"] += 1
        rows.append(_cut_row(utterance, info, names[utterance.audio]))
    rendering.texts[""] = json_lines(rows)
    rendering.utterances = len(rows)
    return rendering


def is_pair_folder(path: Path) -> bool:
    """Whether a folder holds a file of recordings."""
    return path.is_dir() and any(path.glob(f"*{_RECORDINGS}*.jsonl*"))


def has_recordings_beside(path: Path) -> bool:
    """Whether a file is the supervisions of a pair, which its recordings stand for."""
    return _SUPERVISIONS in path.name and path.with_name(path.name.replace(_SUPERVISIONS, _RECORDINGS)).is_file()


def _pair(path: Path) -> tuple[Path, Path | None]:
    """A file of cuts or recordings alone, or of recordings and their supervisions."""
    if path.is_dir():
        found = sorted(path.glob(f"*{_RECORDINGS}*.jsonl*"))
        if len(found) != 1:
            raise CorpusError(
                f"{len(found)} files of recordings ({', '.join(file.name for file in found) or 'none'})",
                where=path,
                expected="one, or the path of one of them",
            )
        path = found[0]
    if _SUPERVISIONS in path.name:
        recordings = path.with_name(path.name.replace(_SUPERVISIONS, _RECORDINGS))
        if not recordings.is_file():
            raise CorpusError("supervisions without recordings", where=path, expected=f"{recordings.name} beside it")
        return recordings, path
    supervisions = path.with_name(path.name.replace(_RECORDINGS, _SUPERVISIONS))
    return path, supervisions if supervisions != path and supervisions.is_file() else None


def _read_supervisions(recordings: Path, supervisions: Path, base: Path, channels: ChannelPolicy) -> Table:
    table = Table(files=[recordings, supervisions])
    known: dict[str, dict[str, Any]] = {}
    problems = []
    for number, line in numbered_lines(recordings):
        try:
            row = json_object(line)
            name = required_text(row, "id")
            if name in known:
                raise Malformed(f"the id {name!r} occurs twice")
            known[name] = row
        except Malformed as error:
            problems.append((number, str(error)))
    raise_wrong_rows(problems, recordings, expected="rows of lhotse's recordings", remedy="Write them again")
    used: set[str] = set()

    def parse(line: str) -> Recording:
        row = json_object(line)
        name = required_text(row, "recording_id")
        if name not in known:
            raise Unfit(f"its recording {name!r} is not among the recordings", str(row.get("id", "")))
        used.add(name)
        cut = {key: row.get(key) for key in ("id", "start", "duration", "channel")} | {"recording": known[name]}
        return _cut({**cut, "supervisions": [{**row, "start": 0.0}], "type": "MonoCut"}, base, channels, table)

    table.collect(supervisions, numbered_lines(supervisions), parse)
    if len(known) > len(used):
        table.dropped["recordings without a supervision"] = len(known) - len(used)
    return table


def _cut(row: dict[str, Any], base: Path, channels: ChannelPolicy, table: Table) -> Recording:
    name = required_text(row, "id")
    kind = row.get("type", "MonoCut")
    if "recording_id" in row:
        raise Malformed(
            "a supervision, but no recordings lie beside it (with `recordings` in place of `supervisions` in the name)"
        )
    if kind == "MixedCut":
        raise Unfit("a mixed (or padded) cut: save its audio to a file of its own", name)
    if kind == "PaddingCut":
        raise Unfit("padding, without audio", name)
    if kind not in ("MonoCut", "MultiCut", "Cut"):
        raise Malformed(f"type is {kind!r}, none of lhotse's cuts")
    if not isinstance(row.get("recording"), dict):
        raise Unfit("a cut without a recording (of features only)", name)
    supervisions = row.get("supervisions") or []
    if not isinstance(supervisions, list) or not all(isinstance(item, dict) for item in supervisions):
        raise Malformed("supervisions are no list of mappings")
    if len(supervisions) > 1:
        raise Unfit(f"{len(supervisions)} supervisions in one cut: cut it with trim_to_supervisions", name)
    file = _file_of(row["recording"], base, name)
    start, duration = seconds(row, "start", default=0.0), positive_seconds(row, "duration")
    supervision = supervisions[0] if supervisions else {}
    if supervision:
        begin = seconds(supervision, "start", least=-1e9)
        end = begin + positive_seconds(supervision, "duration")
        if begin < -DURATION_TOLERANCE_SECONDS or end > duration + DURATION_TOLERANCE_SECONDS:
            raise Unfit(f"its transcript reaches from {begin:g} to {end:g} s, the cut from 0 to {duration:g} s", name)
    policy = _policy(row.get("channel", 0), file.channel_ids, channels, name)
    table.drop(row, _CUT_KEYS)
    table.drop(supervision, _SUPERVISION_KEYS)
    whole = start == 0 and abs(duration - file.duration) < 1 / file.sample_rate
    speaker = optional_text(supervision, "speaker") or UNKNOWN_SPEAKER
    return Recording(name, file.audio, optional_text(supervision, "text"), speaker, duration, start, whole, policy)


@dataclass(frozen=True)
class _File:
    """The only file of a recording."""

    audio: Path
    duration: float  # seconds
    sample_rate: float
    channel_ids: list[int]


def _file_of(row: dict[str, Any], base: Path, name: str = "") -> _File:
    """The file of a recording; refuses recordings that are not exactly one unmodified file."""
    name = name or required_text(row, "id")
    sources = row.get("sources")
    if not isinstance(sources, list) or not sources or not all(isinstance(item, dict) for item in sources):
        raise Malformed("its recording has no sources")
    if row.get("transforms"):
        kinds = ", ".join(str(item.get("name", "?")) for item in row["transforms"] if isinstance(item, dict))
        raise Unfit(f"its recording is transformed while it is read ({kinds}): save its audio first", name)
    if len(sources) > 1:
        raise Unfit(f"its recording lies in {len(sources)} files", name)
    source, kind = sources[0], sources[0].get("type")
    if kind == "command":
        raise Unfit("its recording comes from a command, which would run code: save its audio first", name)
    if kind != "file":
        raise Unfit(f"its recording's source is of type {kind!r}, not a file", name)
    rate = positive_seconds(row, "sampling_rate")
    ids = row.get("channel_ids") or source.get("channels") or [0]
    if not isinstance(ids, list) or not all(isinstance(item, int) for item in ids):
        raise Malformed(f"channel_ids is {ids!r}, no list of numbers")
    return _File(audio_path(required_text(source, "source"), base, name), positive_seconds(row, "duration"), rate, ids)


def _policy(channel: Any, channel_ids: list[int], policy: ChannelPolicy, name: str) -> ChannelPolicy | None:
    """Policy for the channels of a cut; None: that of the corpus."""
    used = channel if isinstance(channel, list) else [0 if channel is None else channel]
    if len(channel_ids) == 1 and used == channel_ids:
        return None
    if used == channel_ids[:1]:
        return "first"
    if used == channel_ids[1:2]:
        return "second"
    if used != channel_ids:
        raise Unfit(
            f"channel {channel} of {channel_ids}: only the first or second of a file, or their average, can be read",
            name,
        )
    if policy == "refuse":
        raise Unfit(f"channels {used} at once: set channels: first or mean", name)
    return None


def _cut_row(utterance: Utterance, info: AudioInfo, recording: str) -> dict[str, Any]:
    # A segment reaches at most to the end of the recording.
    beyond = utterance.start + utterance.duration > info.duration
    duration = info.duration - utterance.start if utterance.whole or beyond else utterance.duration
    every = list(range(info.channels))
    sides: dict[str, int] = {"first": 0, "second": 1}
    channel: int | list[int] = 0 if info.channels == 1 else sides.get(utterance.channels, every)
    supervision: dict[str, Any] = {
        "id": utterance.id,
        "recording_id": recording,
        "start": 0.0,
        "duration": duration,
        "channel": channel,
    }
    if utterance.text is not None:
        supervision["text"] = utterance.text
    source = {"type": "file", "channels": every, "source": str(utterance.audio.absolute())}
    return {
        "id": utterance.id,
        "start": utterance.start,
        "duration": duration,
        "channel": channel,
        "supervisions": [{**supervision, "speaker": utterance.speaker}],
        "recording": {
            "id": recording,
            "sources": [source],
            "sampling_rate": info.sample_rate,
            "num_samples": info.num_samples,
            "duration": info.duration,
            "channel_ids": every,
        },
        "type": "MonoCut" if isinstance(channel, int) else "MultiCut",
    }
