"""Inputs that once ended in a traceback or a misleading message: one line that states what to do."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

import asr_kd
from asr_kd.cli import main
from asr_kd.config import parse_settings
from asr_kd.corpora.manifest import Utterance, write_manifest
from asr_kd.corpora.settings import FolderSettings
from asr_kd.errors import AsrKdError, CheckpointError, RecipeError, is_out_of_memory
from asr_kd.files import atomic_path, loads_json
from asr_kd.training.checkpoint import still_falling
from tests.helpers.tiny_run import RECIPE, ROOT, command, one_line

DEEP = ("[" * 200_000, '{"id": ' + "[" * 200_000)


@pytest.fixture
def recordings(tmp_path):
    """Six files of two seconds at 8 kHz, and their manifest."""
    noise = np.random.default_rng(1).standard_normal(16_000) * 0.05
    utterances = []
    for number in range(6):
        path = tmp_path / "audio" / f"a{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, noise, 8_000)
        utterances.append(Utterance(f"a{number}", path, 2.0, "YES", "speaker"))
    write_manifest(tmp_path / "m.jsonl", utterances)
    return tmp_path


def test_version():
    assert command("--version").out == f"asr-kd {asr_kd.__version__}\n"


@pytest.mark.parametrize("content", DEEP)
@pytest.mark.parametrize("words", [("check",), ("score",), ("manifest", "convert"), ("targets", "import")])
def test_deep_json_is_an_error_of_its_row(tmp_path, recordings, content, words):
    path = tmp_path / "deep.jsonl"
    path.write_text(content + "\n", encoding="utf-8")
    more = {"score": (str(path),), "manifest": ("out.jsonl", "--to", "nemo")}
    more["targets"] = (str(recordings / "m.jsonl"), "--into", str(tmp_path / "into"))
    assert "JSON" in one_line(command(*words, str(path), *more.get(words[0], ())))


def test_deep_json_in_our_own_files():
    for content in DEEP:
        with pytest.raises(json.JSONDecodeError, match="nested too deeply"):
            loads_json(content)


def test_nul_in_a_setting():
    with pytest.raises(RecipeError, match=r"train\.0: a NUL character"):
        parse_settings(FolderSettings, {"train": ["a\0b"], "dev": ["c"]}, "recipe.yaml")


def test_a_binary_arpa_is_named(tmp_path):
    from asr_kd.decoding.flashlight import open_kenlm
    from asr_kd.decoding.graph import read_arpa

    path = tmp_path / "lm.arpa"
    for content in (
        bytes(range(256)) * 50,
        b"\0" * 5_000,
        b"\\1-grams:\n\xff\xfe\n",
        b"mmap lm http://kheafield.com/code",
    ):
        path.write_bytes(content)
        with pytest.raises(AsrKdError, match=r"lm\.arpa"):
            read_arpa(path)
        pytest.importorskip("flashlight")
        with pytest.raises(AsrKdError, match=r"lm\.arpa"):
            open_kenlm(path, ["YES", "NO"])


def test_one_fact_about_a_whole_corpus_is_one_line(recordings):
    lines = command("check", str(recordings / "m.jsonl"), "--help").out and command(
        "check", str(recordings / "m.jsonl")
    )
    assert [line for line in lines.out.splitlines() if "8000 Hz" in line] == [
        "note: other sample rate: 6, every utterance: 8000 Hz, will be resampled to 16000 Hz"
    ]


@pytest.mark.parametrize(
    ("form", "wrong", "right"), [("lhotse", "cuts", "c.jsonl.gz"), ("speechbrain", "c.jsonl", "c.csv")]
)
def test_a_conversion_writes_a_name_that_check_accepts(recordings, form, wrong, right):
    source = str(recordings / "m.jsonl")
    assert "no name of a manifest" in one_line(
        command("manifest", "convert", source, str(recordings / wrong), "--to", form)
    )
    assert command("manifest", "convert", source, str(recordings / right), "--to", form).code == 0
    assert command("check", str(recordings / right)).code == 0


def test_import_before_prepare(tmp_path, recordings):
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.read_text(encoding="utf-8").replace("exp/tiny", str(tmp_path / "exp")), encoding="utf-8"
    )
    words = (
        "targets",
        "import",
        str(recordings / "m.jsonl"),
        str(tmp_path / "recipe.yaml"),
        "--into",
        str(tmp_path / "h"),
    )
    assert "prepare" in one_line(command(*words))


def test_a_model_of_transformers_without_a_ctc_head_is_named(tmp_path):
    pytest.importorskip("transformers")
    from asr_kd.teachers.huggingface_ctc import open_huggingface

    (tmp_path / "config.json").write_text('{"architectures": ["Wav2Vec2Model"]}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="without a CTC head") as refused:
        open_huggingface(str(tmp_path))
    assert "Copy the whole folder" not in str(refused.value)


def test_a_full_folder_of_temporary_files_is_blamed(tmp_path, monkeypatch):
    """Not the folder that is written, which has space."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    usage = {"free": 10_000_000}
    monkeypatch.setattr(
        "asr_kd.files.shutil.disk_usage",
        lambda path: type("Usage", (), {"free": 0 if path == scratch else usage["free"]}),
    )

    def write():
        with pytest.raises(AsrKdError) as failed, atomic_path(tmp_path / "work" / "model.onnx"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return str(failed.value)

    assert str(scratch) in write()
    assert "TMPDIR" in write()
    usage["free"] = 0
    assert "choose another work_dir" in write()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOSPC, errno.EIO])
def test_a_system_error_is_one_line(monkeypatch, capsys, number):
    def fail():
        raise OSError(number, os.strerror(number), "exp/students/student-kd/curve.jsonl")

    monkeypatch.setattr(sys.modules["asr_kd.cli.app"], "app", fail)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "exp/students/student-kd/curve.jsonl: " in capsys.readouterr().err


def started(*words, **more):
    """The command line as a process that Ctrl-C reaches: a shell's background jobs ignore SIGINT."""
    return subprocess.Popen(
        [sys.executable, "-P", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **more,
    )  # fmt: skip


def interrupted(process):
    """One line after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert err.startswith("asr-kd: interrupted. ")
    assert len(err.splitlines()) == 1


def test_ctrl_c_prints_one_line(tmp_path):
    os.mkfifo(tmp_path / "fifo.yaml")
    process = started("-m", "asr_kd", "prepare", str(tmp_path / "fifo.yaml"))
    with (tmp_path / "fifo.yaml").open("w"):  # once it reads the recipe, which does not end
        time.sleep(1)  # a signal between the call and the system's read would not end that
        interrupted(process)


@pytest.mark.parametrize("module", ["asr_kd.cli.app", "typer", "torch", "numpy", "soundfile"])
def test_ctrl_c_during_imports_prints_one_line(tmp_path, module):
    """In the middle of the import of `module`, which replaces any exception by its own, as numpy does."""
    (tmp_path / "audio.wav").touch()
    script = f"""
import sys
from importlib.machinery import PathFinder
class Slow:
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            print("importing", file=sys.stderr, flush=True)
            try:
                import time; time.sleep(100)
            except BaseException as error:
                raise ImportError("broken") from error
sys.meta_path.insert(0, Slow)
sys.argv = ["asr-kd", "transcribe", {str(tmp_path)!r}, {str(tmp_path / "audio.wav")!r}]
from asr_kd.__main__ import main
main()
"""
    process = started("-c", script)
    assert process.stderr.readline() == "importing\n"
    interrupted(process)


@pytest.mark.slow
def test_ctrl_c_at_any_time_prints_one_line_or_comes_before_the_first_of_our_lines(tmp_path):
    """Whenever it comes after the interpreter's own start."""
    (tmp_path / "audio.wav").touch()
    for wait in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0):
        script = (
            "import signal, sys; from asr_kd.__main__ import main; print('begun', file=sys.stderr, flush=True);"
            f"sys.argv = ['asr-kd', 'transcribe', {str(tmp_path)!r}, {str(tmp_path / 'audio.wav')!r}]; main()"
        )
        process = started("-c", script)
        assert process.stderr.readline() == "begun\n"
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert out == ""
        assert len(err.splitlines()) == 1, (wait, err)
        # The model is missing: after that message a signal may meet the interpreter's own end, which it kills.
        assert process.returncode in ([130] if "interrupted" in err else [1, -signal.SIGINT])


def test_ctrl_c_while_the_interpreter_ends_adds_nothing(tmp_path):
    script = (
        "import atexit, os, signal, sys; from asr_kd.__main__ import main;"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT);"
        f"sys.argv = ['asr-kd', 'transcribe', {str(tmp_path)!r}, {str(tmp_path / 'audio.wav')!r}]; main()"
    )
    out, err = (process := started("-c", script)).communicate(timeout=120)
    assert (out, len(err.splitlines()), process.returncode) == ("", 1, -signal.SIGINT), err


def test_lack_of_memory_on_a_cpu_is_recognised():
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as failed:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(failed.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_an_average_over_a_curve_that_still_falls_is_reported():
    def curve(*rates):
        return [{"epoch": number, "dev_wer": rate, "dev_loss": 1.0} for number, rate in enumerate(rates, start=1)]

    assert "from 50.0 to 30.0 %" in still_falling(curve(0.9, 0.5, 0.4, 0.3), [4, 3, 2])
    assert still_falling(curve(0.9, 0.31, 0.31, 0.3), [4, 3, 2]) is None
    assert still_falling(curve(0.9, 0.3, 0.4, 0.5), [2, 3, 4]) is None
    assert still_falling(curve(0.9, 0.3), [2]) is None
