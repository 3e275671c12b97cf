"""Segments of longer files: sought, read alone, and held to what their file holds."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr_kd.audio import decoder, read_audio
from asr_kd.corpora.manifest import Utterance, read_manifest, write_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.corpora.utterance_checks import check_utterances
from asr_kd.errors import AudioError, CorpusError
from asr_kd.targets.sharding import manifest_sha256
from tests.helpers.corpus_layouts import write_audio

FORMATS = (".flac", ".wav", ".ogg", ".opus", ".mp3")


def segment(path: Path, start: float, duration: float, **changes) -> Utterance:
    fields = {"id": f"u-{start}-{duration}", "audio": path, "duration": duration, "text": "A", "speaker": "s"}
    return Utterance(**(fields | {"start": start, "whole": False} | changes))


def problem_of(utterance: Utterance) -> AudioError:
    with pytest.raises(AudioError) as caught:
        read_utterance(utterance)
    assert str(utterance.audio) in str(caught.value)
    return caught.value


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("start", "duration"), [(0.0, 1.0), (0.5, 1.25), (1.0000625, 0.3), (2.75, 0.25)])
def test_a_segment_is_that_part_of_the_file(tmp_path, suffix, start, duration):
    path = write_audio(tmp_path / f"a{suffix}", 3.0)
    whole = read_audio(path)
    first = round(start * 16_000)
    expected = whole[first : first + round(duration * 16_000)]
    torch.testing.assert_close(read_utterance(segment(path, start, duration)), expected, atol=1e-6, rtol=0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 31_999), max_size=5, unique=True))
def test_pieces_that_tile_a_file_give_the_file(tmp_path, cuts):
    path = tmp_path / "a.flac"
    if not path.exists():
        write_audio(path, 2.0)
    borders = [0, *sorted(cuts), 32_000]
    pieces = [(a / 16_000, (b - a) / 16_000) for a, b in pairwise(borders)]
    joined = torch.cat([read_utterance(segment(path, start, seconds)) for start, seconds in pieces])
    assert torch.equal(joined, read_audio(path))


def test_only_the_segment_of_a_long_file_is_decoded(tmp_path, monkeypatch):
    path = write_audio(tmp_path / "a.flac", 20.0)
    decoded = []
    read = soundfile.SoundFile.read

    def counting(self, *arguments, **options):
        samples = read(self, *arguments, **options)
        decoded.append(len(samples))
        return samples

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    read_utterance(segment(path, 12.0, 1.5))
    assert decoded == [24_000]


def test_another_rate_and_two_channels(tmp_path):
    samples = np.stack([np.linspace(-0.5, 0.5, 16_000), np.zeros(16_000)], 1).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 8_000, subtype="FLOAT")
    assert problem_of(segment(tmp_path / "a.wav", 0.5, 1.0)).problem == "several channels"
    waveform = read_utterance(segment(tmp_path / "a.wav", 0.5, 1.0, channels="first"))
    assert waveform.shape == (16_000,)
    torch.testing.assert_close(waveform[8_000].item(), samples[8_000, 0].item(), atol=1e-2, rtol=0)


# -- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_segment_beyond_its_file_is_named(tmp_path, suffix):
    path = write_audio(tmp_path / f"a{suffix}", 2.0)
    error = problem_of(segment(path, 1.5, 1.0))
    assert error.problem == "wrong duration"
    assert "1.500–2.500 s" in str(error)
    assert problem_of(segment(path, 7.0, 1.0)).problem == "wrong duration"


def test_the_end_may_be_off_by_a_rounding(tmp_path):
    path = write_audio(tmp_path / "a.flac", 2.0)
    assert read_utterance(segment(path, 1.5, 0.51)).shape == (8_000,)
    problem_of(segment(path, 1.5, 0.53))


@pytest.mark.parametrize("suffix", [".flac", ".wav", ".ogg", ".opus"])
def test_a_file_that_was_cut_off_is_found_by_the_segments_it_lost(tmp_path, suffix):
    data = write_audio(tmp_path / f"a{suffix}", 4.0).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: len(data) // 2])
    assert problem_of(segment(cut, 3.0, 0.5)).problem in ("damaged audio", "wrong duration")
    assert problem_of(segment(cut, 1.5, 1.0)).problem in ("damaged audio", "wrong duration")


def test_a_flipped_bit_in_a_segment_of_a_flac_is_found(tmp_path):
    path = write_audio(tmp_path / "a.flac", 4.0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert problem_of(segment(path, 1.5, 1.0)).problem == "damaged audio"
    assert read_utterance(segment(path, 0.0, 0.5)).shape == (8_000,)  # damage elsewhere is not its own


def test_an_ogg_file_is_verified_once_and_again_when_it_changed(tmp_path, monkeypatch):
    path, seen = write_audio(tmp_path / "a.ogg", 4.0), []
    monkeypatch.setattr(decoder, "verify_ogg", lambda path: seen.append(path))
    for start in (0.0, 1.0, 2.0):
        read_utterance(segment(path, start, 1.0))
    assert seen == [path]
    path.write_bytes(path.read_bytes() + b"\0")
    read_utterance(segment(path, 0.0, 1.0))
    assert seen == [path, path]


def test_a_segment_without_samples_and_one_that_is_not_a_number(tmp_path):
    path = tmp_path / "a.wav"
    samples = np.zeros(32_000)
    samples[20_000] = np.nan
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    assert problem_of(segment(path, 1.0, 0.5)).problem == "NaN or infinite samples"
    assert read_utterance(segment(path, 0.0, 1.0)).shape == (16_000,)
    assert problem_of(segment(path, 0.5, 1e-6)).problem == "zero length"
    assert problem_of(segment(path, -0.5, 1.0)).problem == "wrong duration"


# -- manifests and hashes --------------------------------------------------------------------------------


def test_manifests_of_whole_files_have_no_start_and_segments_have_one(tmp_path):
    whole = Utterance("a", Path("/a.flac"), 1.5, "HI", "s")
    pieces = [segment(Path("/b.flac"), 0.0, 2.0), segment(Path("/b.flac"), 2.0, 1.5)]
    path = tmp_path / "a.jsonl"
    write_manifest(path, [whole])
    assert path.read_text() == '{"id": "a", "audio": "/a.flac", "duration": 1.5, "text": "HI", "speaker": "s"}\n'
    write_manifest(path, [whole, *pieces])
    assert [
        line.endswith(f'"start": {start}}}')
        for line, start in zip(path.read_text().splitlines()[1:], ("0.0", "2.0"), strict=True)
    ] == [True, True]
    assert read_manifest(path) == [whole, *pieces]


def test_what_starts_later_is_no_whole_file():
    assert not Utterance("a", Path("/a.flac"), 1.5, None, "s", start=0.5).whole
    assert segment(Path("/a"), 1.0, 0.5).end == 1.5


@pytest.mark.parametrize("start", [-1, "1", True, None, float("nan"), float("inf")])
def test_a_wrong_start_is_named(tmp_path, start):
    row = {"id": "a", "audio": "a.flac", "duration": 1.5, "text": "HI", "speaker": "s", "start": start}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(CorpusError, match="start is "):
        read_manifest(tmp_path / "a.jsonl")


def test_the_identity_for_targets_holds_the_start_where_there_is_one():
    whole, moved = Utterance("a", Path("/a"), 1.0, None, "s"), segment(Path("/a"), 3.0, 1.0, id="a")
    first = segment(Path("/a"), 0.0, 1.0, id="a")
    assert manifest_sha256([whole]) == manifest_sha256([first]) != manifest_sha256([moved])
    # What stores of whole files were written with before there were segments.
    assert manifest_sha256([whole]) == "5e3963221deb02c4a91f1dd6d7207abd617e1b71c58835ebe0ff064320e283fd"


# -- check -----------------------------------------------------------------------------------------------


def rows(*utterances: Utterance, **options) -> list[tuple[str, str]]:
    return [(row.problem, row.id) for row in check_utterances(utterances, None, "none", **options).rows]


@pytest.mark.parametrize("read", [True, False])
def test_segments_of_one_file_are_nothing_to_complain_of(tmp_path, read):
    path = write_audio(tmp_path / "a.flac", 3.0)
    assert rows(*(segment(path, start, 1.0) for start in (2.0, 0.0, 1.0)), read=read) == []


def test_overlaps_are_a_note(tmp_path):
    path = write_audio(tmp_path / "a.flac", 3.0)
    inside = segment(path, 1.2, 0.5, id="inside")
    found = check_utterances([segment(path, 0.0, 2.0), inside, segment(path, 2.0, 1.0)], None, "none")
    assert [(row.problem, row.id, row.detail) for row in found.rows] == [("audio used twice", "inside", "rows 1 and 2")]
    assert found.ok
    whole = Utterance("whole", path, 3.0, "A", "s")
    assert rows(inside, whole) == [("audio used twice", "whole")]


def test_check_finds_what_is_wrong_with_a_segment(tmp_path):
    path = write_audio(tmp_path / "a.flac", 3.0)
    late = segment(path, 2.5, 1.0, id="late")
    assert rows(late) == rows(late, read=False) == [("wrong duration", "late")]
    assert rows(segment(tmp_path / "no.flac", 0.0, 1.0, id="none")) == [("missing file", "none")]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert rows(segment(path, 1.0, 1.0, id="hurt"), segment(path, 2.5, 0.5)) == [("damaged audio", "hurt")]
