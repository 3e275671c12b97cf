"""Damaged manifests of every format: an error that names the file, or utterances that are well formed."""

import math
import shutil
from collections import Counter
from pathlib import Path

import pytest

from asr_kd.corpora.corpus import PreparedCorpus, read_prepared, write_prepared
from asr_kd.corpora.formats.catalogue import read_table, render
from asr_kd.corpora.manifest import Utterance, id_problem
from asr_kd.errors import AsrKdError
from tests.helpers.corpus_layouts import write_audio
from tests.helpers.mutations import bounded_memory, damaged_copies, mutations, outcomes_of

COUNT = 1_000
"""Files of each format."""


def utterances(folder: Path) -> list[Utterance]:
    """Whole files and segments, with and without a transcript."""
    return [
        Utterance("ann-1", folder / "one.flac", 2.5, "GOOD MORNING", "ann"),
        Utterance("bob-1", folder / "two.flac", 1.25, None, "bob"),
        Utterance("bob-2", folder / "long.flac", 3.5, "ÄÖ É", "bob", start=1.5),
        Utterance("bob-3", folder / "long.flac", 2.0, "TEN", "bob", start=5.0),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["asr-kd", "lhotse", "nemo", "speechbrain", "kaldi"])
def test_fuzzed_manifests_are_refused_or_well_formed(tmp_path, name):
    """1,000 files of each of five formats."""
    for audio, seconds in (("one", 2.5), ("two", 1.25), ("long", 9.0)):
        write_audio(tmp_path / f"{audio}.flac", seconds)
    own = [u for u in utterances(tmp_path) if u.start == 0 or name != "speechbrain"]
    texts = render(own, name).texts
    outcomes: Counter[str] = Counter()
    suffix = {"speechbrain": ".csv"}.get(name, ".jsonl")
    with bounded_memory():
        for part in texts:
            folder = tmp_path / "fuzz"
            for number, changed in enumerate(mutations(texts[part].encode(), f"{name} {part}", COUNT // len(texts))):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                for other, text in texts.items():
                    (folder / (other or f"m{suffix}")).write_text(text, encoding="utf-8")
                (folder / (part or f"m{suffix}")).write_bytes(changed)
                try:
                    table = read_table(folder if part else folder / f"m{suffix}", name)
                except AsrKdError as error:
                    outcomes["refused" if str(folder) in str(error) else f"no file named: {error}"] += 1
                    continue
                outcomes["read"] += 1
                ids = [recording.id for recording in table.recordings]
                assert len(set(ids)) == len(ids), number
                for recording in table.recordings:
                    assert id_problem(recording.id) is None, number
                    assert recording.duration is None or 0 < recording.duration < math.inf, number
                    assert 0 <= recording.start < math.inf, number
                    assert "\0" not in str(recording.audio), number
    assert outcomes.keys() <= {"refused", "read"}, outcomes
    assert outcomes["refused"] > COUNT // 5, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train.jsonl", "corpus.json"])
def test_fuzzed_files_of_prepare_are_refused_or_the_same(tmp_path, name):
    corpus = PreparedCorpus("own", utterances(tmp_path)[:2], {"dev": utterances(tmp_path)[2:]})
    write_prepared(corpus, tmp_path)
    path = tmp_path / "manifests" / name

    def attempt() -> str:
        try:
            return "same" if read_prepared(tmp_path) == corpus else "other"
        except AsrKdError as error:
            return "named" if str(path.parent) in str(error) else f"no file named: {error}"

    assert outcomes_of(damaged_copies(path, COUNT), attempt).keys() <= {"same", "named"}
