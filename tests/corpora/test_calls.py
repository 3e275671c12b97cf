"""Telephone calls: two 8 kHz channels, minutes long, a side a channel, made of real speech of AN4 and LibriSpeech."""

import numpy as np
import pytest
import soundfile

from asr_kd.audio import SAMPLE_RATE, resample
from asr_kd.corpora.formats.catalogue import convert, read_table
from asr_kd.corpora.manifest import Utterance, read_manifest, write_manifest
from asr_kd.corpora.prepare import prepare
from asr_kd.corpora.recordings import read_utterance
from asr_kd.corpora.settings import An4Settings, FolderSettings, LibriSpeechSettings, ManifestSettings
from asr_kd.corpora.utterance_checks import check_utterances
from asr_kd.errors import CorpusError
from tests.helpers.tiny_run import RECIPE, command, one_line

RATE = 8_000
CALL_SECONDS = 150


def real_speech(kind):
    """Utterances of a corpus; skips without it."""
    settings = An4Settings() if kind == "an4" else LibriSpeechSettings(train=["train-clean-100"])
    try:
        return prepare(settings, RECIPE.parent).dev
    except CorpusError as error:
        if kind == "an4":
            pytest.skip(f"needs AN4 below ASR_KD_CORPORA ({error.found})")
    try:
        return prepare(LibriSpeechSettings(train=["dev-clean"], dev=["dev-clean"]), RECIPE.parent).dev
    except (CorpusError, ValueError) as error:
        pytest.skip(f"needs LibriSpeech below ASR_KD_CORPORA ({error})")


def write_call(path, utterances):
    """Write a call whose sides speak in turn; return a segment of every utterance, with its time and side."""
    sides, segments, at = np.zeros((CALL_SECONDS * RATE, 2), dtype=np.float32), [], 0.5
    noise = np.random.default_rng(len(utterances)).standard_normal(sides.shape) * 1e-3
    for number, utterance in enumerate(utterances):
        speech = resample(read_utterance(utterance).numpy(), SAMPLE_RATE, RATE)
        first = round(at * RATE)
        if first + len(speech) + RATE > len(sides):
            break
        side = number % 2
        sides[first : first + len(speech), side] = speech
        name, channel = f"{path.stem}-{number}", ("first", "second")[side]
        speaker = f"{path.parent.name}-ch{side + 1}"
        segments.append(
            Utterance(name, path, len(speech) / RATE, utterance.text, speaker, channel, first / RATE, False)
        )
        at += len(speech) / RATE + 0.7
    soundfile.write(path, np.clip(sides + noise, -1, 1), RATE, subtype="ULAW")
    return segments


@pytest.fixture(scope="module", params=["an4", "librispeech"])
def calls(request, tmp_path_factory):
    """A folder of two calls, a transcribed call beside it, and its segments."""
    folder, speech = tmp_path_factory.mktemp("calls"), real_speech(request.param)
    for name in ("one", "two"):
        (folder / "train" / "agent").mkdir(parents=True, exist_ok=True)
        write_call(folder / "train" / "agent" / f"{name}.wav", speech[:40] if name == "one" else speech[40:80])
    (folder / "dev").mkdir()
    segments = write_call(folder / "dev" / "call.wav", speech[20:60])
    write_manifest(folder / "dev.jsonl", segments)
    return folder, segments, speech[20:60]


def settings(folder, **options):
    return FolderSettings(train=[folder / "train"], dev=[folder / "dev.jsonl"], **options)


def test_each_side_is_a_stream_of_utterances(calls, tmp_path):
    folder, segments, _ = calls
    corpus = prepare(settings(folder, channels="split", max_seconds=20), tmp_path)
    assert {utterance.speaker for utterance in corpus.train} == {"agent-ch1", "agent-ch2"}
    for call in ("one", "two"):
        for number, channel in ((1, "first"), (2, "second")):
            pieces = [item for item in corpus.train if item.id.startswith(f"agent-{call}-ch{number}-")]
            assert {item.channels for item in pieces} == {channel}
            assert sum(item.duration for item in pieces) == pytest.approx(CALL_SECONDS)
            assert max(item.duration for item in pieces) <= 20
            assert [item.start for item in pieces] == pytest.approx(
                np.cumsum([0, *(item.duration for item in pieces[:-1])])
            )
    assert [item.id for item in corpus.dev] == [item.id for item in segments]
    found = check_utterances([*corpus.train, *corpus.dev], None, "none")
    assert set(found.counts) <= {"other sample rate", "no transcript"}


def test_a_segment_of_a_side_is_its_speech(calls, tmp_path):
    """At its time, on its side, without the other."""
    folder, segments, speech = calls
    assert {segment.channels for segment in segments} == {"first", "second"}
    for segment, utterance in list(zip(read_manifest(folder / "dev.jsonl"), speech, strict=False))[:8]:
        read, clean = read_utterance(segment).numpy(), read_utterance(utterance).numpy()
        length = min(len(read), len(clean))
        narrow = resample(resample(clean[:length], SAMPLE_RATE, RATE), RATE, SAMPLE_RATE)[:length]
        assert np.corrcoef(read[: len(narrow)], narrow)[0, 1] > 0.95


def test_sides_survive_other_formats(calls, tmp_path):
    folder, segments, _ = calls
    convert(folder / "dev.jsonl", tmp_path / "cuts.jsonl.gz", "auto", "lhotse")
    table = read_table(tmp_path / "cuts.jsonl.gz", "auto")
    assert [(row.id, row.channels) for row in table.recordings] == [(item.id, item.channels) for item in segments]


def test_calls_are_refused_in_prepare_without_a_policy(calls, tmp_path):
    folder, *_ = calls
    with pytest.raises(CorpusError, match=r"has 2 channels: set corpus\.channels to .*split"):
        prepare(settings(folder), tmp_path)
    with pytest.raises(ValueError, match="split needs kind: folder"):
        ManifestSettings(train=[folder / "dev.jsonl"], dev=[folder / "dev.jsonl"], channels="split")


def test_students_that_need_transcripts_are_refused_in_prepare(calls, tmp_path):
    folder, *_ = calls
    text = RECIPE.read_text(encoding="utf-8")
    begin, end = text.index("corpus:"), text.index("extras:")
    corpus = f"corpus: {{kind: folder, train: {folder / 'train'}, dev: {folder / 'dev.jsonl'}, channels: split}}\n"
    corpus += 'vocabulary: {alphabet: "ABCDEFGHIJKLMNOPQRSTUVWXYZ\'"}\n'
    (tmp_path / "recipe.yaml").write_text(text[:begin] + corpus + text[end:], encoding="utf-8")
    said = one_line(command("prepare", str(tmp_path / "recipe.yaml"), f"work_dir={tmp_path / 'exp'}"))
    assert "no utterance of the training set has a transcript" in said
    assert "student-hard, student-kd" in said
