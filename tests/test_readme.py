"""Commands on the pages parse, recipes load, Python snippets run and print what the student outputs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import soundfile
import typer

from asr_kd.cli import app
from asr_kd.recipe.settings import load_recipe
from asr_kd.recipe.sweep_grid import load_grid
from tests.helpers.tiny_bundle import tiny_bundle
from tests.helpers.tiny_models import noise_speech
from tests.helpers.tiny_run import command

ROOT = Path(__file__).parents[1]
RECIPES = [
    page for page in ROOT.glob("recipes/**/*.md") if "weights" not in page.parts
]  # a bundle's commands are its own
PAGES = sorted([*ROOT.glob("*.md"), *RECIPES, *ROOT.glob("docs/**/*.md")])
STREAMING = ROOT / "docs" / "guides" / "streaming.md"
BUNDLE = Path("exp/synthetic/export/student-kd")
AUDIO = Path("exp/synthetic/corpus/synthetic/test/3000/1/3000-1-0001.flac")


class Command(NamedTuple):
    page: str
    words: list[str]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(program: str) -> list[Command]:
    """Every such command in the pages' shell blocks and in their recipes' own headers."""
    texts = {str(page.relative_to(ROOT)): "\n".join(blocks(page, "bash")) for page in PAGES}
    for recipe in ROOT.glob("recipes/*/*.yaml"):
        header = [line.lstrip("# ") for line in recipe.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        texts[str(recipe.relative_to(ROOT))] = "\n".join(header)
    found = []
    for name, text in texts.items():
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if line.startswith(program) else []
            if words and words[0] == program:
                found.append(Command(name, words[1:]))
    return found


def parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The verb and its arguments, as the command line reads them; an unknown verb or option is an error."""
    group: Any = typer.main.get_command(app)
    verb, *rest = words
    assert verb in group.commands, f"no verb is called {verb!r}"
    if rest == ["--help"]:
        return verb, {}
    return verb, group.commands[verb].make_context(verb, rest).params


def ids(found: list[Command]) -> list[str]:
    return [f"{command.page}: {' '.join(command.words)}" for command in found]


OURS = commands("asr-kd")


def test_there_are_pages_and_commands():
    assert {"README.md", "CONTRIBUTING.md", "recipes/AN4/README.md"} <= {str(page.relative_to(ROOT)) for page in PAGES}
    assert len(OURS) >= 12
    assert {words[0] for _, words in OURS} >= {"run", "check", "transcribe"}


@pytest.mark.parametrize("command", OURS, ids=ids(OURS))
def test_a_command_parses_and_its_recipe_loads(command):
    verb, params = parse(command.words)
    recipe = params.get("recipe") or params.get("target")
    if recipe is not None and Path(recipe).suffix == ".yaml" and "recipes" in Path(recipe).parts:
        own_settings = verb == "pseudo-label"  # its overrides are not keys of a recipe
        loaded = load_recipe(ROOT / recipe, [] if own_settings else params["overrides"] or [])
        names = {*loaded.teachers, *loaded.students}
        if verb == "sweep":
            names = set(load_grid(params["grid"], None).rows)
        assert set(params.get("only") or []) <= names, "--only names models of the recipe, or rows of the grid"
    if verb == "transcribe":
        assert Path(params["model"]).parts[0] == "exp"


@pytest.mark.parametrize("command", commands("make"), ids=ids(commands("make")))
def test_a_make_target_exists(command):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{command.words[0]}:", makefile, re.M)


def test_extras_that_are_named_exist():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = [
        name
        for command in commands("pip")
        for found in re.findall(r"\[(.+?)\]", " ".join(command.words))
        for name in found.split(",")
    ]
    assert named
    assert set(named) <= set(extras)


def test_python_commands_name_files_that_exist():
    found = [command.words[0] for command in commands("python") if not command.words[0].startswith("-")]
    assert found
    assert [name for name in found if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=str)
def test_a_recipe_shown_on_a_page_loads(page, tmp_path):
    for number, text in enumerate(blocks(page, "yaml")):
        if not text.startswith("name:"):
            continue  # a part of a recipe
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        recipe = load_recipe(path, [])
        assert "student-kd" in recipe.students


def test_links_lead_somewhere():
    found = 0
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                found += 1
                assert (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"
    assert found > 8


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory) -> Path:
    """What the demo leaves behind, as far as the snippets look at it: a bundle, and speech."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(tiny_bundle(tmp_path_factory).forms, folder / BUNDLE)
    (folder / AUDIO).parent.mkdir(parents=True)
    soundfile.write(folder / AUDIO, noise_speech(2.3, seed=5).numpy(), 16_000)
    return folder


def test_the_python_snippets_of_the_streaming_guide_print_the_transcript(demo_folder):
    from asr_kd.audio import read_audio
    from asr_kd.runtime.recognizer import open_recognizer

    for client in ("onnxruntime", "sherpa_onnx"):
        pytest.importorskip(client)
    snippets = blocks(STREAMING, "python")
    assert len(snippets) == 3
    expected = open_recognizer(demo_folder / BUNDLE).transcribe([read_audio(demo_folder / AUDIO)])[0]
    assert len(expected) > 3
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = "import sys\nfor snippet in sys.argv[1:]:\n    exec(snippet, {'__name__': '__main__'})\n    print('\\n--')"
    command = [sys.executable, "-W", "error::SyntaxWarning", "-c", script, *snippets]
    done = subprocess.run(command, cwd=demo_folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for printed in done.stdout.split("\n--\n")[:3]:
        assert " ".join(re.split(r"[\r\n]", printed.strip())[-1].split()) == expected


def test_the_transcribe_command_of_the_readme_runs(demo_folder, monkeypatch):
    monkeypatch.chdir(demo_folder)
    done = command(*next(words for page, words in OURS if page == "README.md" and words[0] == "transcribe"))
    assert done.code == 0, done.err
    path, text = done.out.rstrip("\n").split("\t")
    assert Path(path) == AUDIO
    assert len(text) > 3


def test_the_table_of_verbs_names_commands():
    table = set(re.findall(r"`asr-kd ([\w-]+) ", (ROOT / "README.md").read_text(encoding="utf-8")))
    group: Any = typer.main.get_command(app)
    assert len(table) > 10
    assert table <= set(group.commands)


def test_the_excerpt_in_the_readme_is_part_of_the_example():
    example = (ROOT / "recipes" / "examples" / "plain_pytorch.py").read_text(encoding="utf-8")
    lines = [line.strip() for line in blocks(ROOT / "README.md", "python")[0].splitlines() if line != "…"]
    assert len(lines) > 4
    assert [line for line in lines if line not in example] == []


def test_readme_and_contributing_are_short():
    assert (ROOT / "README.md").stat().st_size <= 12_000
    assert (ROOT / "CONTRIBUTING.md").stat().st_size <= 8_000


def test_the_table_of_faults_names_tests_that_exist():
    named = re.findall(r"`(tests/[\w/.]+?)(?:::(\w+))?`", (ROOT / "docs" / "faults.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    for path, name in named:
        assert (ROOT / path).exists(), path
        assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), name


def test_the_table_of_faults_has_every_row_of_the_contract():
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert numbers == list(range(1, 34))
    heads = ("| given", "| #", "| what", "| --", "| :")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(heads)]
    assert [row for row in rows if "`tests/" not in row] == []
