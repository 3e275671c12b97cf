"""Audio in every format, and every kind of damage that can be seen in a file."""

import errno
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr_kd.audio import probe, read_audio
from asr_kd.errors import AudioError

FORMATS = ("flac", "wav", "ogg", "opus", "mp3")


def noise(seconds: float = 2.0, rate: int = 16_000) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate))).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 16_000, **options: str) -> Path:
    if path.suffix == ".opus":
        options = {"format": "OGG", "subtype": "OPUS"}
    soundfile.write(path, samples, rate, **options)
    return path


def problem_of(path: Path, **arguments: object) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(path, **arguments)
    assert str(path) in str(caught.value)
    return caught.value.problem


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_read_at_its_length(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", noise())
    info = probe(path)
    assert (info.sample_rate, info.channels) == (16_000, 1)
    waveform = read_audio(path, duration=info.duration)
    assert waveform.dtype == torch.float32
    assert waveform.shape == (info.num_samples,)
    assert info.duration == pytest.approx(2.0, abs=0.1)
    assert waveform.abs().max() <= 1


def test_lossless_samples_are_exact(tmp_path):
    integers = np.random.default_rng(1).integers(-32768, 32768, 1000).astype(np.int16)
    for suffix in ("flac", "wav"):
        path = write(tmp_path / f"a.{suffix}", integers)
        assert torch.equal(read_audio(path) * 32768, torch.from_numpy(integers).float())


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file_is_found(tmp_path, suffix, share):
    whole = write(tmp_path / f"a.{suffix}", noise()).read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole[: int(share * len(whole))])
    assert problem_of(cut) == "damaged audio"


@pytest.mark.parametrize("suffix", ["flac", "ogg", "opus"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0.05, 0.999), bit=st.integers(0, 7))
def test_one_flipped_bit_is_found_where_the_format_has_checksums(tmp_path, suffix, position, bit):
    path = tmp_path / f"a.{suffix}"
    if not path.exists():
        write(path, noise())
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1 << bit
    flipped = tmp_path / f"flipped.{suffix}"
    flipped.write_bytes(data)
    assert problem_of(flipped) == "damaged audio"


def test_an_ogg_file_without_its_last_page_is_found(tmp_path):
    data = write(tmp_path / "a.ogg", noise(8.0)).read_bytes()
    path = tmp_path / "cut.ogg"
    path.write_bytes(data[: data.rindex(b"OggS")])
    assert problem_of(path) == "damaged audio"


def test_a_wav_cut_within_the_tolerance_of_its_duration_is_found_by_its_header(tmp_path):
    data = write(tmp_path / "a.wav", noise()).read_bytes()
    path = tmp_path / "cut.wav"
    path.write_bytes(data[:-2])
    with pytest.raises(AudioError, match="cut off or damaged"):
        read_audio(path)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x7FFFF000 // 6 * 6])  # the last two: SoX
def test_a_streamed_wav_of_unknown_length_is_read(tmp_path, length):
    data = bytearray(write(tmp_path / "a.wav", noise(0.5)).read_bytes())
    assert data[36:40] == b"data"
    data[40:44] = struct.pack("<I", length)
    path = tmp_path / "streamed.wav"
    path.write_bytes(data)
    assert read_audio(path).shape == (8000,)


@pytest.mark.parametrize("content", [b"", b"this is not audio\n" * 100])
def test_text_or_nothing_named_flac_is_damaged(tmp_path, content):
    path = tmp_path / "a.flac"
    path.write_bytes(content)
    assert problem_of(path) == "damaged audio"


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    assert problem_of(tmp_path / "none.wav") == "missing file"
    assert problem_of(tmp_path) == "damaged audio"


def test_a_file_that_the_system_refuses_is_named(tmp_path, monkeypatch):
    assert problem_of(tmp_path / f"{'long' * 80}.wav") == "missing file"

    def refused(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refused)  # a folder without permission; the tests may run as root
    with pytest.raises(AudioError, match=r"cannot be read \(Permission denied\)"):
        probe(tmp_path / "a.wav")


def test_zero_length_is_refused(tmp_path):
    assert problem_of(write(tmp_path / "a.wav", noise(0))) == "zero length"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers_are_refused(tmp_path, value):
    samples = noise()
    samples[17] = value
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    assert problem_of(path) == "NaN or infinite samples"


def test_integers_stored_as_floats_are_refused_and_overshoot_is_clipped(tmp_path):
    assert problem_of(write(tmp_path / "a.wav", noise() * 32768, subtype="FLOAT")) == "samples out of range"
    assert read_audio(write(tmp_path / "b.wav", noise() * 20, subtype="FLOAT")).abs().max() == 1


def test_stereo_follows_the_policy(tmp_path):
    left, right = noise(), noise()[::-1].copy()
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    assert problem_of(path) == "several channels"
    torch.testing.assert_close(read_audio(path, channels="first"), torch.from_numpy(left))
    torch.testing.assert_close(read_audio(path, channels="mean"), torch.from_numpy((left + right) / 2))


def test_messages_fit_a_recipe_and_the_command_line(tmp_path):
    path = write(tmp_path / "a.wav", np.stack([noise(), noise()], axis=1))
    with pytest.raises(AudioError, match="first, second or mean: channels in a recipe, --channels on the command line"):
        read_audio(path)
    with pytest.raises(AudioError, match=r"is a folder; expected an audio file. Name its files, for example .*\.wav$"):
        read_audio(tmp_path)


def test_another_rate_is_resampled_and_said_once(tmp_path, caplog):
    time = np.arange(19_000) / 19_000  # a rate of this test alone
    path = write(tmp_path / "a.wav", (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32), rate=19_000)
    with caplog.at_level(logging.WARNING):
        waveform = read_audio(path, duration=1.0)
        read_audio(path)
    assert len([record for record in caplog.records if "19000 Hz" in record.getMessage()]) == 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert waveform.shape == (16_000,)
    np.testing.assert_allclose(waveform[500:-500], expected[500:-500], atol=1e-3)


@pytest.mark.parametrize("promised", [1.97, 2.03])
def test_a_duration_other_than_promised_is_refused(tmp_path, promised):
    path = write(tmp_path / "a.flac", noise())
    assert read_audio(path, duration=2.01).shape == (32_000,)
    assert problem_of(path, duration=promised) == "wrong duration"


@pytest.mark.corpora
def test_real_speech_is_read(corpora_root):
    paths = [*(corpora_root / "an4").rglob("*.wav")][:20] + [*(corpora_root / "LibriSpeech").rglob("*.flac")][:20]
    assert paths
    for path in paths:
        waveform = read_audio(path, duration=probe(path).duration)
        assert waveform.abs().max() > 0.01
