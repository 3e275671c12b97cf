"""Each verb: its help, and `check` and `transcribe`, which are not stages."""

import importlib
import shutil
import subprocess
import sys
from typing import get_args

import pytest
import soundfile
import typer

from asr_kd.audio import ChannelPolicy
from asr_kd.cli import app
from asr_kd.corpora.manifest import Utterance, write_manifest
from asr_kd.corpora.speech_engines import EngineName
from asr_kd.recipe.recipe_text import Start
from asr_kd.runtime.transcribe import WordForm
from asr_kd.targets.hypothesis_formats import Form
from tests.helpers.tiny_bundle import tiny_bundle
from tests.helpers.tiny_models import noise_speech
from tests.helpers.tiny_run import RECIPE, command, one_line

app_module = importlib.import_module("asr_kd.cli.app")  # the name is that of the application too

VERBS = (
    *("run", "prepare", "train", "extract", "distill", "evaluate", "export", "sweep", "init", "check", "download"),
    *("synthesize", "pseudo-label", "tune", "score", "compare", "export-model", "transcribe", "serve", "push"),
)
GROUPS = ("recipe", "manifest", "targets", "lm")


def test_these_are_the_verbs():
    assert tuple(typer.main.get_command(app).commands) == VERBS + GROUPS
    outcome = command("--help")
    assert outcome.code == 0
    assert all(verb in outcome.out for verb in VERBS)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (app_module.ChannelPolicy, ChannelPolicy),
        (app_module.HypothesisForm, Form),
        (app_module.WordForm, WordForm),
        (app_module.EngineName, EngineName),
        (app_module.Start, Start),
    ],
)
def test_choices_are_those_of_the_modules(ours, theirs):
    assert get_args(ours) == get_args(theirs)


def test_help_does_not_wait_for_torch():
    program = "import sys; import asr_kd.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_run_takes_the_names_of_commands_for_stages(monkeypatch):
    asked = []
    stage_commands = importlib.import_module("asr_kd.cli.stage_commands")
    monkeypatch.setattr(
        stage_commands, "run_stages", lambda recipe, overrides, first, last, *rest: asked.append((first, last))
    )
    assert command("run", str(RECIPE), "--from", "train", "--to", "distill").code == 0
    assert command("run", str(RECIPE), "--from", "extract").code == 0
    assert asked == [("teacher", "student"), ("extract", "export")]


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example(verb):
    outcome = command(verb, "--help")
    assert outcome.code == 0
    assert f"Example: asr-kd {verb} " in " ".join(outcome.out.split())


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_each_verb_of_a_group_shows_an_example(group):
    verbs = typer.main.get_command(app).commands[group].commands
    assert verbs
    for verb in verbs:
        outcome = command(group, verb, "--help")
        assert outcome.code == 0
        assert f"Example: asr-kd {group} {verb} " in " ".join(outcome.out.split())


def test_an_unknown_verb_and_a_missing_argument_are_usage_errors():
    assert command("trian").code == 2
    assert command("run").code == 2
    assert command("run", str(RECIPE), "--max-minutes", "-1").code == 2


# -- check -----------------------------------------------------------------------------------------------


def test_check_of_a_sound_recipe(tmp_path):
    pytest.importorskip("espeakng_loader")
    outcome = command("check", str(RECIPE), f"work_dir={tmp_path}", "corpus.topics=[digits]")
    assert outcome.code == 0, outcome.out
    assert "52 utterances" in outcome.out
    assert "No problems found." in outcome.out


@pytest.fixture
def manifest(tmp_path):
    """Five utterances, all but the first with a fault of their own."""
    for name in ("good", "empty-text", "damaged", "zero"):
        soundfile.write(tmp_path / f"{name}.flac", noise_speech(1.5).numpy(), 16_000)
    soundfile.write(tmp_path / "zero.flac", noise_speech(0.0).numpy(), 16_000, format="WAV")
    content = bytearray((tmp_path / "damaged.flac").read_bytes())
    content[len(content) // 2] ^= 16
    (tmp_path / "damaged.flac").write_bytes(content)
    rows = [
        Utterance(name, tmp_path / f"{name}.flac", 1.5, "" if name == "empty-text" else "A B", "speaker")
        for name in ("good", "empty-text", "damaged", "zero", "missing")
    ]
    write_manifest(tmp_path / "set.jsonl", rows)
    return tmp_path / "set.jsonl"


def test_check_of_a_manifest_lists_every_fault_once(manifest):
    outcome = command("check", str(manifest))
    assert outcome.code == 1
    assert outcome.err == ""
    for kind, name in (
        ("empty transcript", "empty-text"),
        ("damaged audio", "damaged"),
        ("zero length", "zero"),
        ("missing file", "missing"),
    ):
        assert f"PROBLEM: {kind}: 1\n  {name}  " in outcome.out
    assert "4 problems in 4 utterances" in outcome.out

    fast = command("check", str(manifest), "--headers-only")
    assert fast.code == 1
    assert "damaged audio" not in fast.out
    assert "headers only" in fast.out


def test_check_of_what_is_neither(tmp_path, manifest):
    (tmp_path / "notes.txt").write_text("")
    assert "neither a recipe nor a manifest" in one_line(command("check", str(tmp_path / "notes.txt")))
    assert "cannot be read" in one_line(command("check", str(tmp_path / "no.jsonl")))
    assert "no overrides: they belong to recipes" in one_line(command("check", str(manifest), "seed=1"))
    manifest.write_text('{"id": "../../x"}\n')
    assert "set.jsonl:1" in one_line(command("check", str(manifest)))


# -- transcribe ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    """A model whose transcripts are not empty, and its bundle: their folders by kind."""
    made = tiny_bundle(tmp_path_factory)
    return {"model": made.model, "bundle": made.forms}


@pytest.fixture
def recordings(tmp_path):
    paths = [tmp_path / "one.wav", tmp_path / "two words.flac"]
    for seed, path in enumerate(paths):
        soundfile.write(path, noise_speech(1.5 + seed, seed).numpy(), 16_000)
    return [str(path) for path in paths]


def test_transcribe_prints_the_same_for_a_bundle_and_its_model(systems, recordings):
    outcomes = [command("transcribe", str(systems[kind]), *recordings) for kind in ("bundle", "model")]
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert outcomes[0].out == outcomes[1].out
    rows = [line.split("\t") for line in outcomes[0].out.splitlines()]
    assert [path for path, _ in rows] == recordings
    assert all(len(text) > 3 for _, text in rows)
    assert rows[0][1] != rows[1][1]


def test_the_run_s_own_bundle_and_student_agree(finished):
    audio = sorted(str(path) for path in finished.corpus_root.rglob("3000-*.flac"))
    bundle = command("transcribe", str(finished.file("export", "student-kd")), *audio)
    model = command("transcribe", str(finished.file("students", "student-kd", "model")), *audio)
    assert (bundle.code, bundle.err) == (0, "")
    assert bundle.out == model.out
    assert len(bundle.out.splitlines()) == len(audio) == 3


def test_a_damaged_recording_is_a_message_and_the_others_are_transcribed(systems, recordings, tmp_path):
    bad = tmp_path / "bad.flac"
    bad.write_bytes((tmp_path / "two words.flac").read_bytes()[:4000])
    outcome = command(
        "transcribe", str(systems["bundle"]), recordings[0], str(bad), str(tmp_path / "no"), recordings[1]
    )
    assert outcome.code == 1
    good = command("transcribe", str(systems["bundle"]), *recordings)
    assert outcome.out == good.out
    lines = outcome.err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["asr-kd", str(bad)], ["asr-kd", str(tmp_path / "no")]]
    assert "no such file" in lines[1]


def test_several_channels_are_a_choice(systems, recordings, tmp_path):
    mono = noise_speech(1.5).numpy()
    soundfile.write(tmp_path / "stereo.wav", [[sample, 0.0] for sample in mono], 16_000)
    stereo = str(tmp_path / "stereo.wav")
    assert "has 2 channels" in one_line(command("transcribe", str(systems["model"]), stereo))
    text = command("transcribe", str(systems["model"]), recordings[0]).out.split("\t")[1]
    assert command("transcribe", str(systems["model"]), stereo, "--channels", "first").out == f"{stereo}\t{text}"
    assert command("transcribe", str(systems["model"]), stereo, "--channels", "left").code == 2


def test_what_is_no_model_is_refused(systems, recordings, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is neither a model folder nor a bundle" in one_line(
        command("transcribe", str(tmp_path / "empty"), *recordings)
    )
    assert "does not exist" in one_line(command("transcribe", str(tmp_path / "nothing"), *recordings))
    broken = shutil.copytree(systems["bundle"], tmp_path / "bundle")
    (broken / "tokens.txt").write_text("a 0\n")
    assert "tokens.txt" in one_line(command("transcribe", str(broken), *recordings))
