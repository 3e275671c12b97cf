"""Other audio under unchanged ids is refused before training, and extraction makes only its shards anew."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest

from asr_kd.audio import ChannelPolicy
from asr_kd.corpora.fingerprint import BLOCK_BYTES, audio_identities, audio_sha256
from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import StoppedEarly, TargetsError
from asr_kd.targets.extract import extract
from asr_kd.targets.hypotheses import HypothesisStore
from asr_kd.targets.importing import import_hypotheses
from asr_kd.targets.store import Store


def swap(one: Path, other: Path) -> None:
    contents = one.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0])
    one.write_bytes(contents[1])


def of_one_length(corpus: list[Utterance]) -> list[Utterance]:
    """The same with every file as long as the first, but its own noise: durations and sizes tell nothing."""
    import numpy as np
    import soundfile

    found = []
    for number, utterance in enumerate(corpus):
        path = utterance.audio.with_name(f"same-{number}.wav")
        samples = np.random.default_rng(number).standard_normal(16_000) * 0.1
        soundfile.write(path, samples, 16_000, subtype="FLOAT")
        found.append(Utterance(utterance.id, path, 1.0, utterance.text, utterance.speaker))
    return found


def test_swapped_files_of_one_length_are_refused_and_only_their_shards_are_made_anew(
    tmp_path, teacher, corpus, settings
):
    corpus = sorted(of_one_length(corpus), key=lambda utterance: utterance.id)
    first = extract(teacher, corpus, settings, tmp_path / "s")
    assert first.made > 1
    Store.open(tmp_path / "s").check_audio(corpus)
    before = {path.name: path.read_bytes() for path in (tmp_path / "s").glob("*.safetensors")}
    swap(corpus[0].audio, corpus[1].audio)
    with pytest.raises(TargetsError, match=r"other audio .*shard-00000.*extract stage"):
        Store.open(tmp_path / "s").check_audio(corpus)
    second = extract(teacher, corpus, settings, tmp_path / "s")
    assert second.made < first.made
    Store.open(tmp_path / "s").check_audio(corpus)
    after = {path.name: path.read_bytes() for path in (tmp_path / "s").glob("*.safetensors")}
    assert before.keys() == after.keys()
    assert 0 < sum(before[name] != after[name] for name in before) == second.made
    swap(corpus[0].audio, corpus[1].audio)
    extract(teacher, corpus, settings, tmp_path / "s")
    assert {path.name: path.read_bytes() for path in (tmp_path / "s").glob("*.safetensors")} == before


def test_an_interrupted_run_over_changed_audio_leaves_no_complete_store(tmp_path, teacher, corpus, settings):
    corpus = sorted(of_one_length(corpus), key=lambda utterance: utterance.id)
    shards = extract(teacher, corpus, settings, tmp_path / "s").made
    last = corpus[-1].audio.read_bytes()
    for one, other in pairwise(corpus):
        one.audio.write_bytes(other.audio.read_bytes())
    corpus[-1].audio.write_bytes(last[:100] + last[200:300] + last[200:])
    calls = teacher.calls
    with pytest.raises(StoppedEarly):
        extract(teacher, corpus, settings, tmp_path / "s", should_stop=lambda: teacher.calls > calls + 3)
    with pytest.raises(TargetsError, match=f"unfinished: . of {shards} shards"):
        Store.open(tmp_path / "s")
    extract(teacher, corpus, settings, tmp_path / "s")
    Store.open(tmp_path / "s").check_audio(corpus)


def test_another_duration_or_id_is_refused_without_reading_audio(tmp_path, teacher, corpus, settings):
    extract(teacher, corpus, settings, tmp_path / "s")
    store = Store.open(tmp_path / "s")
    longer = [Utterance(u.id, u.audio, u.duration + 0.01, u.text, u.speaker) for u in corpus]
    for changed in (longer, corpus[1:]):
        with pytest.raises(TargetsError, match="ids or durations differ"):
            store.check_audio(changed)


def test_imported_hypotheses_of_other_audio_are_refused(tmp_path, corpus):
    rows = [{"id": utterance.id, "text": f"word {number}"} for number, utterance in enumerate(corpus)]
    (tmp_path / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_hypotheses(tmp_path / "others.jsonl", corpus, tmp_path / "in", "librispeech")
    store = HypothesisStore.open(tmp_path / "in")
    store.check_audio(corpus)
    store.check_audio(corpus[:1])
    swap(corpus[0].audio, corpus[1].audio)
    with pytest.raises(TargetsError, match=r"under 2 of the same ids.*import them again"):
        store.check_audio(corpus)


def test_identity_is_of_content_and_segment_not_of_the_path(tmp_path, corpus):
    moved = [Utterance(u.id, tmp_path / f"{u.id}.x", u.duration, u.text, u.speaker) for u in corpus]
    for old, new in zip(corpus, moved, strict=True):
        shutil.copy(old.audio, new.audio)
    assert audio_identities(moved) == audio_identities(corpus)
    assert audio_sha256(moved) == audio_sha256(corpus[::-1])
    one = corpus[0]
    later = Utterance(one.id, one.audio, one.duration, one.text, one.speaker, start=0.1)
    gone = Utterance(one.id, tmp_path / "gone", one.duration, one.text, one.speaker)
    assert audio_identities([later]) != audio_identities([one])
    assert audio_identities([gone]) == {one.id: ""}
    sides = {read: audio_identities([replace(one, channels=read)])[one.id] for read in get_args(ChannelPolicy)}
    assert sides["refuse"] == sides["first"]  # the same audio wherever both can be read
    assert len(set(sides.values())) == 3
    large = tmp_path / "large"
    for place in (0, 2 * BLOCK_BYTES + 10, 4 * BLOCK_BYTES - 1):
        content = bytearray(4 * BLOCK_BYTES)
        large.write_bytes(content)
        before = audio_identities([Utterance("a", large, 1.0, None, "s")])
        content[place] = 1
        large.write_bytes(content)
        assert audio_identities([Utterance("a", large, 1.0, None, "s")]) != before
