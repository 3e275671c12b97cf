"""Files whose headers state no length or a wrong one: decoded to their end, or refused; never silently shortened."""

import io
import logging
import random
import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr_kd.audio import AudioInfo, length_problem, probe, read_audio, read_blocks
from asr_kd.audio.containers import read_mpeg_frames
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import Recording, measure, read_utterance
from asr_kd.corpora.utterance_checks import check_utterances
from asr_kd.errors import AudioError

RATE = 16_000


def speech(seconds: float = 3.0, rate: int = RATE) -> np.ndarray:
    """Noise in syllables, so that a variable bit rate varies."""
    samples = 0.1 * np.random.default_rng(3).standard_normal(round(seconds * rate))
    return (samples * np.where(np.sin(np.arange(len(samples)) / rate * 12) > 0, 1.0, 0.01)).astype(np.float32)


def encoded(kind: str, samples: np.ndarray | None = None, rate: int = RATE, **options) -> bytes:
    subtypes = {"FLAC": "PCM_16", "WAV": "PCM_16", "OGG": "VORBIS", "OPUS": "OPUS", "MP3": "MPEG_LAYER_III"}
    file = io.BytesIO()
    kind, subtype = ("OGG" if kind == "OPUS" else kind), options.pop("subtype", subtypes[kind])
    samples = speech(rate=rate) if samples is None else samples
    soundfile.write(file, samples, rate, format=kind, subtype=subtype, **options)
    return file.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def without_length(flac: bytes) -> bytes:
    """As streaming encoders write it: STREAMINFO states 0 samples."""
    changed = bytearray(flac)
    changed[21] &= 0xF0
    changed[22:26] = bytes(4)
    return bytes(changed)


def without_xing(mp3: bytes, tmp_path: Path) -> bytes:
    size = next(position for position in range(4, len(mp3)) if mp3[position : position + 2] == mp3[:2])
    assert b"Xing" in mp3[:size] or b"Info" in mp3[:size]
    return mp3[size:]


def refused(path: Path) -> str:
    """The message with which all ways to read a file refuse it; `check` lists it."""
    with pytest.raises(AudioError) as whole:
        read_audio(path, channels="first")
    with pytest.raises(AudioError):
        list(read_blocks(path, channels="first"))
    report = check_utterances([Utterance("u", path, 3.0, "A", "s")], None, "none")
    assert any(row.problem in ("damaged audio", "unusual sample rate") for row in report.problems)
    assert str(path) in str(whole.value)
    return str(whole.value)


def test_a_flac_without_a_length_is_decoded_to_its_end(tmp_path):
    whole = write(tmp_path / "whole.flac", encoded("FLAC"))
    path = write(tmp_path / "streamed.flac", without_length(whole.read_bytes()))
    assert probe(path) == probe(whole)
    assert torch.equal(read_audio(path), read_audio(whole))
    assert torch.equal(torch.cat(list(read_blocks(path))), read_audio(whole))
    assert torch.equal(read_audio(path, start=1.5, duration=0.5), read_audio(whole, start=1.5, duration=0.5))
    utterances, excluded = measure([Recording("u", path, "A", "s")])
    assert not excluded
    assert check_utterances(utterances, None, "none").ok
    assert len(read_utterance(utterances[0])) == 3 * RATE
    cut = write(tmp_path / "cut.flac", path.read_bytes()[:-2_000])
    assert "cannot be decoded" in refused(cut)


@pytest.mark.parametrize("byte", range(18, 42))
def test_every_bit_of_streaminfo_that_matters_is_verified(tmp_path, byte):
    """Rate, channels, bits and length against the frames, the MD5 against the samples."""
    data = encoded("FLAC")
    for bit in range(8):
        changed = bytearray(data)
        changed[byte] ^= 1 << bit
        refused(write(tmp_path / "flipped.flac", bytes(changed)))


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_md5_of_every_width_is_right(tmp_path, subtype, channels):
    samples = np.stack([speech(), -speech() / 2], axis=1)[:, :channels]
    path = write(tmp_path / "a.flac", encoded("FLAC", samples, subtype=subtype))
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0][:, 0]
    assert np.array_equal(read_audio(path, channels="first").numpy(), expected)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("bytes_cut", [1, 40, 400])
def test_a_cut_mp3_is_refused(tmp_path, rate, bytes_cut):
    data = encoded("MP3", rate=rate)
    assert len(read_audio(write(tmp_path / "whole.mp3", data))) == 3 * RATE
    assert "MPEG frame" in refused(write(tmp_path / "cut.mp3", data[:-bytes_cut]))
    bare = without_xing(data, tmp_path)
    assert "cut off" in refused(write(tmp_path / "bare.mp3", bare[: -bytes_cut - 1]))


def test_a_mp3_cut_at_a_frame_is_refused_by_its_header(tmp_path):
    data = encoded("MP3")
    starts = [at for at in range(len(data) - 1) if data[at : at + 2] == data[:2]]
    assert "its header states" in refused(write(tmp_path / "cut.mp3", data[: starts[-1]]))


def test_a_variable_mp3_without_xing_header_is_read_whole(tmp_path):
    data = encoded("MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    path = write(tmp_path / "vbr.mp3", without_xing(data, tmp_path))
    found, info = read_audio(path), probe(path)
    assert info.num_samples == len(found)
    assert abs(len(found) / RATE - 3) < info.tolerance_seconds
    assert abs(len(found) - soundfile.info(path).frames) > 1_000  # libsndfile's estimate
    assert len(torch.cat(list(read_blocks(path)))) == len(found)
    segment = read_audio(path, start=2.0, duration=0.5)
    torch.testing.assert_close(segment, found[2 * RATE : 2 * RATE + RATE // 2], atol=1e-3, rtol=0)


def test_tags_around_an_mp3_are_skipped(tmp_path):
    data = encoded("MP3")
    tagged = b"ID3\x04\0\0\0\0\1\0" + bytes(128) + data + b"TAG" + bytes(125)
    path = write(tmp_path / "tagged.mp3", tagged)
    assert torch.equal(read_audio(path), read_audio(write(tmp_path / "a.mp3", data)))
    frames = read_mpeg_frames(path)
    assert frames is not None
    assert frames.offset == 138


@pytest.mark.parametrize("kind", ["MP3", "OGG", "OPUS", "FLAC"])
def test_two_files_joined_are_refused(tmp_path, kind):
    refused(write(tmp_path / f"joined.{kind.lower()}", 2 * encoded(kind)))


def test_a_manifest_may_state_a_48_khz_mp3_with_the_encoders_padding(tmp_path):
    """Other tools count the delay and padding of encoder and decoder, up to 71 ms at 48 kHz."""
    path = write(tmp_path / "a.mp3", encoded("MP3", rate=48_000))
    info = probe(path)
    for difference, fits in ((0.063, True), (-0.063, True), (0.12, False)):
        stated = info.duration + difference
        assert (length_problem(info, stated) is None) == fits
        recordings, excluded = measure([Recording("u", path, "A", "s", stated)])
        assert (len(recordings), len(excluded)) == (int(fits), int(not fits))
        if fits:
            assert len(read_utterance(recordings[0])) == round(info.duration * RATE)


@pytest.mark.parametrize("start", [1.0, 2.49, 2.98, 2.985, 2.999, 3.0, 3.01])
@pytest.mark.parametrize("over", [-0.01, 0.0, 0.0199, 0.02, 0.0201, 0.03])
def test_prepare_accepts_exactly_the_segments_that_training_reads(tmp_path, start, over):
    path = write(tmp_path / "a.wav", encoded("WAV"))
    recording = Recording("u", path, "A", "s", 3.0 - start + over, start, whole=False)
    accepted, _ = measure([recording])
    try:
        read_audio(path, start=start, duration=3.0 - start + over)
        read = True
    except AudioError:
        read = False
    assert bool(accepted) == read


@pytest.mark.parametrize("subtype", ["GSM610", "IMA_ADPCM", "MS_ADPCM", "ULAW", "ALAW", "PCM_U8", "PCM_24", "FLOAT"])
def test_codings_of_calls_are_read_at_their_length(tmp_path, subtype):
    data = encoded("WAV", speech(14.0, 8_000), 8_000, subtype=subtype)
    path = write(tmp_path / "call.wav", data)
    utterances, excluded = measure([Recording("u", path, "A", "s")])
    assert not excluded
    assert utterances[0].duration == pytest.approx(14.0, abs=0.13)  # whole blocks
    assert check_utterances(utterances, None, "none").ok
    assert len(read_utterance(utterances[0])) == pytest.approx(14.0 * RATE, abs=0.13 * RATE)
    refused(write(tmp_path / "cut.wav", data[: len(data) // 2]))


@pytest.mark.parametrize("rate", [1, 100, 3_999, 1_000_000])
def test_a_sample_rate_of_no_speech_is_refused(tmp_path, rate):
    path = write(tmp_path / "a.wav", encoded("WAV", speech(0.01, RATE), rate))
    assert f"has {rate} Hz; expected 4000 to 384000 Hz" in refused(path)


def test_a_wav_header_that_contradicts_itself_is_refused(tmp_path):
    data = encoded("WAV")
    for place in (22, 24, 28, 32, 34):  # channels, rate, bytes a second, bytes a sample, bits
        changed = bytearray(data)
        changed[place] ^= 8 if place == 34 else 2
        refused(write(tmp_path / "flipped.wav", bytes(changed)))
    shorter = bytearray(data)
    shorter[41] ^= 0x10  # the length of the audio
    refused(write(tmp_path / "shorter.wav", bytes(shorter)))


def test_a_wav_that_states_no_audio_before_its_samples_was_not_finished(tmp_path):
    data = bytearray(encoded("WAV"))
    data[40:44] = bytes(4)
    message = refused(write(tmp_path / "open.wav", bytes(data)))
    assert f"states no audio, and {len(data) - 44} bytes follow" in message
    assert "ffmpeg -ignore_length 1" in message
    note = bytes(data[:44]) + b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    with pytest.raises(AudioError, match="holds no samples"):
        read_audio(write(tmp_path / "empty.wav", note))


def test_a_length_far_beyond_the_file_asks_for_no_memory(tmp_path):
    info = AudioInfo(RATE, 1, 2**36 - 1, (2**36 - 1) / RATE)
    assert length_problem(info, 3.0)
    data = bytearray(encoded("FLAC"))
    data[21] |= 0x0F
    path = write(tmp_path / "long.flac", bytes(data))
    refused(path)
    with pytest.raises(AudioError):
        read_audio(path, start=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["FLAC", "WAV", "OGG", "OPUS", "MP3"])
def test_fuzzed_files_are_read_as_they_were_or_refused(tmp_path, kind, caplog):
    """600 files of each format: flipped bits, cuts, doubled and removed stretches; no traceback, no memory."""
    caplog.set_level(logging.ERROR)
    data, generator = encoded(kind, speech(1.0)), random.Random(kind)
    original = read_audio(write(tmp_path / f"a.{kind.lower()}", data))
    before, outcomes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {"same": 0, "refused": 0, "other": 0}
    for number in range(600):
        changed, header = bytearray(data), 0
        kind_of_damage = generator.choice(["header", "body", "cut", "double", "remove"])
        at, length = generator.randrange(len(data)), generator.randrange(1, 600)
        if kind_of_damage in ("header", "body"):
            at = generator.randrange(60) if kind_of_damage == "header" else at
            changed[at] ^= 1 << generator.randrange(8)
            header = at
        elif kind_of_damage == "cut":
            del changed[at:]
        elif kind_of_damage == "double":
            changed[at:at] = changed[at : at + length]
        else:
            del changed[at : at + length]
        path = write(tmp_path / f"{number}.{kind.lower()}", bytes(changed))
        try:
            found = read_audio(path, channels="first")
            outcome = "same" if torch.equal(found, original) else "other"
        except AudioError:
            outcome = "refused"
        outcomes[outcome] += 1
        # A flipped bit inside WAV or MP3 leaves no trace; everything else is found.
        silent = kind in ("WAV", "MP3") and (kind_of_damage == "body" or header >= 4)
        assert outcome != "other" or silent, (kind_of_damage, at, length)
        path.unlink()
    assert outcomes["refused"] > 300 if kind != "WAV" else outcomes["refused"] > 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB
