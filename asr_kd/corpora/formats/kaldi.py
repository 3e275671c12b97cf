"""Kaldi's data folders: wav.scp, text, utt2spk, spk2utt, segments, utt2dur.

As https://kaldi-asr.org/doc/data_prep.html describes them and utils/validate_data_dir.sh checks them: files sorted by
bytes (LC_ALL=C), each id once, utterance ids that begin with their speaker's. Commands in wav.scp ("sox … |") are never
run; only `flac -c -d -s FILE |`, which Kaldi's recipe for LibriSpeech writes, is read as FILE.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from asr_kd.audio import DURATION_TOLERANCE_SECONDS, ChannelPolicy
from asr_kd.corpora.formats.table import (
    Rendering,
    Table,
    Unfit,
    audio_path,
    finite_number,
    numbered_lines,
    recording_names,
)
from asr_kd.corpora.manifest import Malformed, Utterance, raise_wrong_rows
from asr_kd.corpora.recordings import Exclusion, Recording
from asr_kd.errors import CorpusError

WAV = "wav.scp"

_FLAC = re.compile(r"flac(?=.* -\w*d)(?: -[cds]+)+ (?P<path>[^\s|;&<>()$`'\"*?\\]+) *\|")
_ARCHIVE = re.compile(r"\.ark(:\d+)?$")
_ILLEGAL = re.compile(r"(?<!\w)(<s>|</s>|#0)(?!\w)")
Lines = dict[str, tuple[int, str]]
"""Id → (row, what follows it)."""


def read(path: Path, data_root: Path | None, channels: ChannelPolicy) -> Table:
    """Read a data folder; relative paths start at `data_root`, else at the folder.

    Without utt2spk, every utterance is its own speaker, as in Kaldi.

    Raises:
        CorpusError: no wav.scp, files that cannot be read, malformed rows, or an id twice in a file.
    """
    folder = path.parent if path.name == WAV else path
    if not (folder / WAV).is_file():
        raise CorpusError("no wav.scp", where=folder, expected="a data folder of Kaldi")
    table = Table()
    files = {name: _lines(folder / name, table) for name in (WAV, "segments", "text", "utt2spk", "utt2dur")}
    listed = "segments" if files["segments"] is not None else WAV
    wavs, rows = files[WAV] or {}, files[listed] or {}
    base = data_root or folder

    def parse(name: str) -> Recording:
        start, duration, recording = 0.0, _duration(name, files["utt2dur"]), name
        if listed == "segments":
            recording, start, end = _segment(name, rows[name][1])
            duration = _segment_duration(start, end, duration)
        if recording not in wavs:
            raise Unfit(f"its recording {recording!r} is not in wav.scp", name)
        audio = _audio(wavs[recording][1], base, name)
        text, speaker = _value(name, files["text"]), _value(name, files["utt2spk"])
        if files["text"] is not None and text is None:
            raise Unfit("has audio but no transcript in text", name)
        return Recording(name, audio, text, speaker or name, duration, start, whole=listed == WAV)

    table.collect(folder / listed, [(row, name) for name, (row, _) in rows.items()], parse)
    for name in sorted(set(files["text"] or {}) - rows.keys()):
        row = (files["text"] or {})[name][0]
        table.excluded.append(Exclusion(name, folder / "text", f"row {row}: has a transcript but no audio"))
    return table


def render(utterances: Sequence[Utterance]) -> Rendering:
    """Render the files of a data folder.

    Ids get their speaker as a prefix where they lack it, which Kaldi's sorting needs. With one segment among the
    utterances, all are in `segments`; with one transcript, utterances without are left out.

    Raises:
        CorpusError: speakers whose names Kaldi cannot sort, or two utterances of one id.
    """
    rendering = Rendering({})
    transcribed = any(utterance.text is not None for utterance in utterances)
    kept: dict[str, Utterance] = {}
    for utterance in utterances:
        problem = _unwritable(utterance, transcribed)
        name = _sortable_name(utterance)
        if problem:
            rendering.excluded.append(Exclusion(utterance.id, utterance.audio, problem))
        elif name in kept:
            raise CorpusError(f"the id {name!r} belongs to two utterances", expected="each id once")
        else:
            kept[name] = utterance
            if utterance.channels != "refuse":
                rendering.dropped[f"channels: {utterance.channels}"] += 1
    renamed = sum(name != utterance.id for name, utterance in kept.items())
    if renamed:
        rendering.notes.append(f"{renamed} ids got their speaker as a prefix, which Kaldi needs for sorting")
    rendering.utterances = len(kept)
    rendering.texts = _texts({name: kept[name] for name in sorted(kept, key=str.encode)}, transcribed)
    return rendering


def _lines(path: Path, table: Table) -> Lines | None:
    """A file's rows by id; None where there is no such file."""
    if not path.is_file():
        return None
    table.files.append(path)
    found: Lines = {}
    problems = []
    for row, line in numbered_lines(path):
        name, *rest = line.split(maxsplit=1)
        if name in found:
            problems.append((row, f"the id {name!r} occurs in rows {found[name][0]} and {row}"))
        found[name] = (row, rest[0].strip() if rest else "")
    raise_wrong_rows(problems, path, expected="each id once", remedy="Run Kaldi's utils/fix_data_dir.sh on it")
    return found


def _value(name: str, lines: Lines | None) -> str | None:
    return lines[name][1] if lines is not None and name in lines else None


def _duration(name: str, lines: Lines | None) -> float | None:
    value = _value(name, lines)
    if value is None:
        return None
    duration = finite_number(value)
    if not duration > 0:
        raise Malformed(f"utt2dur has {value!r} for {name}, not a positive number of seconds")
    return duration


def _segment(name: str, value: str) -> tuple[str, float, float]:
    """Recording, start and end (seconds; -1: end of the recording) of a row of segments."""
    fields = value.split()
    if len(fields) == 4:
        raise Unfit(f"channel {fields[3]} of its recording: write it to a file of its own", name)
    if len(fields) != 3:
        raise Malformed(f"{len(fields) + 1} fields, not utterance, recording, begin and end")
    begin, end = finite_number(fields[1]), finite_number(fields[2])
    if not begin >= 0 or (end != -1 and not end > begin):
        raise Malformed(f"from {fields[1]} to {fields[2]} is no segment")
    return fields[0], begin, end


def _segment_duration(start: float, end: float, stated: float | None) -> float | None:
    """Duration of a segment; utt2dur is more exact where both agree."""
    if end == -1:
        return stated
    found = round(end - start, 9)
    return stated if stated is not None and abs(stated - found) <= DURATION_TOLERANCE_SECONDS else found


def _audio(value: str, base: Path, name: str) -> Path:
    decoded = _FLAC.fullmatch(value)
    if decoded:
        return audio_path(decoded["path"], base, name)
    if value.endswith("|") or value.startswith("|"):
        raise Unfit(f"a command, which would run code ({value[:60]}): write its output to a file", name)
    if _ARCHIVE.search(value) or value == "-":
        raise Unfit(f"{value} is an archive or a stream, not an audio file", name)
    return audio_path(value, base, name)


def _unwritable(utterance: Utterance, transcribed: bool) -> str | None:
    audio = str(utterance.audio.absolute())
    if not utterance.speaker or utterance.speaker.split() != [utterance.speaker]:
        return f"its speaker {utterance.speaker!r} is empty or holds white space, which separates Kaldi's columns"
    if transcribed and utterance.text is None:
        return "has no transcript, unlike others: Kaldi has text for all or none"
    if utterance.text is not None and _ILLEGAL.search(utterance.text):
        return "its transcript holds <s>, </s> or #0, which Kaldi reserves"
    if "\n" in audio or audio != audio.strip() or audio.endswith("|"):
        return f"Kaldi cannot read the path {audio!r}"
    return None


def _sortable_name(utterance: Utterance) -> str:
    """The id, with the speaker as a prefix where it is missing (19-0001 of speaker 1 has no prefix of speaker 1)."""
    name, speaker = utterance.id, utterance.speaker
    if name == speaker or (name.startswith(speaker) and not name[len(speaker)].isalnum()):
        return name
    return f"{speaker}-{name}"


def _texts(kept: dict[str, Utterance], transcribed: bool) -> dict[str, str]:
    """File name → content, of utterances by name in Kaldi's order."""
    speakers: dict[str, list[str]] = {}
    for name, utterance in kept.items():
        speakers.setdefault(utterance.speaker, []).append(name)
    _refuse_unsortable(list(kept), {name: utterance.speaker for name, utterance in kept.items()})
    texts = {
        "utt2spk": [f"{name} {utterance.speaker}" for name, utterance in kept.items()],
        "spk2utt": [f"{speaker} {' '.join(speakers[speaker])}" for speaker in sorted(speakers, key=str.encode)],
        "utt2dur": [f"{name} {utterance.duration!r}" for name, utterance in kept.items()],
    }
    if transcribed:
        texts["text"] = [" ".join([name, *(u.text or "").split()]) for name, u in kept.items()]
    if all(utterance.whole for utterance in kept.values()):
        texts[WAV] = [f"{name} {utterance.audio.absolute()}" for name, utterance in kept.items()]
    else:
        files = recording_names(list(kept.values()))
        rows = sorted(((name, path) for path, name in files.items()), key=lambda row: row[0].encode())
        texts[WAV] = [f"{name} {path.absolute()}" for name, path in rows]
        texts["segments"] = [f"{name} {files[u.audio]} {u.start!r} {u.end!r}" for name, u in kept.items()]
    return {name: "".join(f"{line}\n" for line in lines) for name, lines in texts.items()}


def _refuse_unsortable(names: list[str], speakers: dict[str, str]) -> None:
    """Require that sorting by utterance also sorts by speaker, as validate_data_dir.sh does."""
    in_order = [speakers[name] for name in names]
    by_speaker = sorted(in_order, key=str.encode)
    for found, expected in zip(in_order, by_speaker, strict=True):
        if found != expected:
            raise CorpusError(
                f"the speakers {found!r} and {expected!r} sort otherwise than their utterances",
                expected="speaker names of which none continues another with a character before '-'",
                remedy="Rename a speaker",
            )
