"""Detect, read, write and convert manifests of any format."""

import gzip
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_kd.audio import ChannelPolicy
from asr_kd.config import user_path
from asr_kd.corpora.formats import FormatName, ManifestFormat, kaldi, lhotse, nemo, speechbrain_csv
from asr_kd.corpora.formats.table import Rendering, Table, numbered_lines
from asr_kd.corpora.manifest import Malformed, Utterance, json_object, read_manifest, render_manifest
from asr_kd.corpora.recordings import Exclusion, Recording, measure, refuse_too_many
from asr_kd.errors import CorpusError
from asr_kd.files import atomic_folder, atomic_path

_OTHERS = {"lhotse": lhotse, "nemo": nemo, "speechbrain": speechbrain_csv, "kaldi": kaldi}
SET_NAMES = {"train": {"train"}, "dev": {"dev", "val", "valid", "validation"}, "test": {"test", "eval"}}
"""Words for a set in names of manifests."""
_JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")


@dataclass(frozen=True)
class Conversion:
    """Result of a conversion."""

    utterances: int
    excluded: list[Exclusion]
    dropped: Counter[str]
    notes: list[str]


def read_table(
    path: Path, name: ManifestFormat, data_root: Path | None = None, channels: ChannelPolicy = "refuse"
) -> Table:
    """Read a manifest of any format, a file or, of lhotse and Kaldi, a folder; `auto` detects the format.

    Relative audio paths start at `data_root`; None: the manifest's folder.

    Raises:
        CorpusError: unreadable, of no known format, or with rows that are malformed or share an id.
    """
    root = user_path(data_root).absolute() if data_root is not None else None
    other = _OTHERS.get(detect(path) if name == "auto" else name)
    if other is not None:
        table: Table = other.read(path, root, channels)
        return table
    return Table([_recording(utterance) for utterance in read_manifest(path, root=root)], files=[path])


def is_manifest(path: Path) -> bool:
    """Whether a path has the name of a manifest, or is a folder that is one."""
    if path.is_dir():
        return (path / kaldi.WAV).is_file() or lhotse.is_pair_folder(path)
    return path.name == kaldi.WAV or path.suffix == ".csv" or path.name.endswith(_JSON_SUFFIXES)


def manifests_in(folder: Path) -> list[Path]:
    """Return the manifests that lie in a folder; of a pair of lhotse its recordings alone."""
    found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and is_manifest(path)]
    return [path for path in found if not lhotse.has_recordings_beside(path)]


def named_sets(folder: Path) -> dict[str, Path]:
    """Return the manifest of each set: the one called train, or the only one with that word: cuts_train.jsonl.gz.

    Sets without one are left out; where several could be one set, all are.
    """
    words = {path: re.split(r"[^a-z]+", path.name.split(".")[0].lower()) for path in manifests_in(folder)}
    parts = {path: [part for part, names in SET_NAMES.items() if names & {*found}] for path, found in words.items()}
    sets: dict[str, Path] = {}
    for part in SET_NAMES:
        own = [path for path, found in parts.items() if found == [part]]
        exact = [path for path in own if len(words[path]) == 1]
        if len(own) > 1 and not exact:
            return {}
        if own:
            sets[part] = (exact or own)[0]
    return sets


def detect(path: Path) -> FormatName:
    """Detect the format of a manifest by its name and its first row.

    Raises:
        CorpusError: of no known format, or unreadable.
    """
    if not is_manifest(path):
        raise CorpusError(
            "is not a manifest",
            where=path,
            expected=".jsonl, .jsonl.gz, .json, .csv or a Kaldi data folder",
        )
    if (path / kaldi.WAV).is_file() or path.name == kaldi.WAV:
        return "kaldi"
    if path.is_dir():
        return "lhotse"
    if path.suffix == ".csv":
        return "speechbrain"
    try:
        first = json_object(next(numbered_lines(path), (0, "{}"))[1])
    except Malformed:
        return "asr-kd"  # whose reader reports every malformed row
    if "audio_filepath" in first or "audio_filename" in first:
        return "nemo"
    if "sources" in first or "recording_id" in first or "supervisions" in first or "tracks" in first:
        return "lhotse"
    return "asr-kd"


def render(utterances: Sequence[Utterance], name: FormatName) -> Rendering:
    """Render utterances as the text of a manifest.

    Raises:
        CorpusError: the format cannot represent them.
    """
    if name in _OTHERS:
        rendering: Rendering = _OTHERS[name].render(utterances)
        return rendering
    return Rendering({"": render_manifest(utterances)}, len(utterances))


def convert(
    source: Path,
    target: Path,
    source_format: ManifestFormat,
    target_format: FormatName,
    *,
    data_root: Path | None = None,
    channels: ChannelPolicy = "refuse",
    max_excluded_share: float = 0.0,
) -> Conversion:
    """Write a manifest in another format; audio is opened only where rows lack needed information.

    The new file is gzipped if its name ends in .gz; of Kaldi it is a folder. See `read_table` for the other arguments.

    Raises:
        CorpusError: `target` exists, too many rows cannot be converted, or as `read_table`.
    """
    suffixes = (".csv",) if target_format == "speechbrain" else _JSON_SUFFIXES
    if target_format != "kaldi" and not target.name.endswith(suffixes):
        raise CorpusError(
            f"is no name of a manifest of {target_format}",
            where=target,
            expected=f"a name that ends in {', '.join(suffixes)}",
            remedy="Choose such a name: formats are detected by it",
        )
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if target.exists():
        raise CorpusError("already exists", where=target, expected="a new name", remedy="Remove it, or choose another")
    table = read_table(source, source_format, data_root, channels)
    utterances, unreadable = complete(table.recordings, channels)
    rendering = render(utterances, target_format)
    excluded = [*table.excluded, *unreadable, *rendering.excluded]
    refuse_too_many(
        excluded,
        len(table.recordings) + len(table.excluded),
        max_excluded_share,
        source,
        remedy="Correct them, or raise --max-excluded-share to go on without them",
    )
    if not rendering.utterances:
        raise CorpusError("there are no utterances to write", where=source, expected="at least one utterance")
    if "" in rendering.texts:
        data = rendering.texts[""].encode()
        with atomic_path(target) as partial:
            partial.write_bytes(gzip.compress(data, mtime=0) if target.suffix == ".gz" else data)
    else:
        with atomic_folder(target) as partial:
            for name, text in rendering.texts.items():
                (partial / name).write_text(text, encoding="utf-8")
    return Conversion(rendering.utterances, excluded, table.dropped + rendering.dropped, rendering.notes)


def complete(recordings: Sequence[Recording], channels: ChannelPolicy) -> tuple[list[Utterance], list[Exclusion]]:
    """Convert recordings to utterances; only files of recordings without duration are opened."""
    unmeasured = [recording for recording in recordings if recording.duration is None]
    measured, excluded = measure(unmeasured, channels)
    found = {r.id: r.utterance(r.duration, channels) for r in recordings if r.duration is not None}
    found |= {utterance.id: utterance for utterance in measured}
    return [found[recording.id] for recording in recordings if recording.id in found], excluded


def _recording(utterance: Utterance) -> Recording:
    return Recording(
        utterance.id,
        utterance.audio,
        utterance.text,
        utterance.speaker,
        utterance.duration,
        utterance.start,
        utterance.whole,
        None if utterance.channels == "refuse" else utterance.channels,
    )
