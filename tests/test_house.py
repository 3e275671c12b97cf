"""The rules of the house that a program can check; CONTRIBUTING.md says why they are there."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "asr_kd"

MOST_LINES = 400
DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "lib", "core"}

RUNS_CODE = {
    *("eval", "exec", "compile", "__import__"),
    *("torch.load", "torch.jit.load", "torch.hub.load", "joblib.load", "os.system", "os.popen"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load"),
    *("yaml.unsafe_load_all", "yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader"),
}
"""Names that run code or can be made to by the file they read."""
RUNS_CODE_WHEN_IMPORTED = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "hyperpyyaml"}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader"}

ONE_HOME = {
    "speechbrain": ("training/distiller.py", "teachers/speechbrain_ctc.py"),
    "transformers": "teachers/huggingface_ctc.py",
    "huggingface_hub": "hub.py",
    "onnx": "export/graphs.py",
    "onnxruntime": ("runtime/graph_backends.py", "export/graphs.py"),
    "sherpa_onnx": "export/sherpa_client.py",
    "espeakng_loader": "corpora/speech_engines.py",
    "ttspico": ("corpora/speech_engines.py", "corpora/pico_worker.py"),
    "kaldi_native_fbank": "features/fbank.py",
    "jiwer": "scoring/wer.py",
    "soxr": "audio/waveform_reader.py",
    "kaldifst": "decoding/graph.py",
    "flashlight": "decoding/flashlight.py",
    "librosa": "evaluation/report/evidence.py",
    "PIL": "evaluation/report/evidence.py",
    "jinja2": ("evaluation/report/page.py", "recipe/recipe_text.py"),
    "sentencepiece": "text/bpe.py",
    "fsspec": "targets/s3_storage.py",
    "whisper_normalizer": "text/normalize.py",
    "num2words": "text/verbalize.py",
    "faster_whisper": "teachers/whisper_transcriber.py",
    "websockets": "serve/server.py",
    "prometheus_client": "serve/admission.py",
    "typer": "cli/",
}
"""Clients of other projects, and the one file, or folder, that imports each; speechbrain trains and teaches."""
LATE = {
    "flashlight",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "sherpa_onnx",
    "espeakng_loader",
    "ttspico",
    "transformers",
    "huggingface_hub",
    "whisper_normalizer",
    "num2words",
    "faster_whisper",
    "websockets",
    "prometheus_client",
}
"""They come with extras: importing the package must work without them."""

IMPORTERS = {"import_module", "find_spec", "import_extra"}
"""Functions that import what a string names, or look for it."""

# In pieces, so that this file does not hold what it looks for.
MACHINE = [
    *(re.escape("/" + folder + "/") for folder in ("wo" + "rk", "ho" + "me", "ro" + "ot", "Us" + "ers", "op" + "t")),
    r"[A-Z]:\\" + "Us" + "ers",
    r"(?<!/data/local)" + re.escape("/" + "tm" + "p/"),  # that of a phone is the same on all phones
    *(re.escape(host) for host in ("py" + "pi.", "python" + "hosted", "--" + "index-url", "--extra-" + "index-url")),
    re.escape("../" + "shared"),
]
BINARY = {".flac", ".wav", ".onnx", ".safetensors", ".png", ".gz"}


def modules() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 60, "there is something to check"
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def at(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def dotted(node: ast.AST) -> str:
    """`a.b.c` of such an expression; empty for others."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def imported(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Top-level names of the packages that a file imports, by statement or by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0], node
        elif isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in IMPORTERS:
            yield from (
                (str(item.value).split(".")[0], node) for item in node.args[:1] if isinstance(item, ast.Constant)
            )


# -- layers ----------------------------------------------------------------------------------------------


def layers() -> list[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    return next(contract["layers"] for contract in contracts if contract["type"] == "layers")


def test_imports_go_down_only():
    command = [sys.executable, "-P", "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    analyzed = re.search(r"Analyzed (\d+) files", done.stdout)
    assert analyzed is not None
    assert int(analyzed[1]) >= len(modules())


def test_every_part_of_the_package_stands_in_a_layer():
    parts = {
        f"asr_kd.{path.stem}" for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    listed = {name.strip() for row in layers() for name in row.split("|")}
    assert len(listed) > 15
    assert parts - {"asr_kd.__init__"} == listed


def test_contributing_draws_the_layers_as_they_are():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = [line.split("  ")[0].strip() for line in text.split("<!-- layers -->")[1].splitlines() if line.strip(" `")]
    assert drawn == [row.replace("asr_kd.", "") for row in layers()]


# -- files -----------------------------------------------------------------------------------------------


def test_files_are_short():
    assert [(str(path), n) for path in modules() if (n := len(path.read_text().splitlines())) > MOST_LINES] == []


def test_there_are_no_drawers():
    assert [str(path) for path in modules() if {path.stem, *path.relative_to(ROOT).parts} & DRAWERS] == []


def test_modules_functions_and_classes_say_what_they_are():
    missing, seen = [], 0
    for path in modules():
        tree = tree_of(path)
        named = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
        for node in [tree, *(node for node in named if not node.name.startswith("_"))]:
            seen += 1
            if not (ast.get_docstring(node) or path.name == "__main__.py"):
                missing.append(at(path, node))
    assert seen > 300
    assert missing == []


# -- language --------------------------------------------------------------------------------------------

PERSONS = {
    *("hear", "hears", "heard", "hearing", "listen", "listens", "listening", "listened", "listener", "listeners"),
    *("teach", "teaches", "taught", "teaching", "lesson", "lessons", "speak", "speaks", "talk", "talks"),
    *("say", "says", "said", "ask", "asks", "asked", "know", "knows", "want", "wants", "tell", "tells", "told"),
    *("answer", "answers", "answered", "claim", "claims", "claimed", "disturb", "disturbs", "disturbed"),
    *("surroundings", "ledger", "expense", "misfit", "panel", "foreign"),
}
"""Words that names and docstrings do not use: modules are not persons, and the field has terms for all of these."""
FILE_METHODS = {"tell"}


def words_of(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def names_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
        return [node.id if isinstance(node, ast.Name) else node.attr]
    return []


def test_names_and_docstrings_use_the_terms_of_the_field():
    found = []
    for path in modules():
        for node in ast.walk(tree_of(path)):
            for name in names_of(node):
                if words_of(name) & PERSONS and name not in FILE_METHODS:
                    found.append(f"{at(path, node)}: the name {name}")
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                text = re.sub(r"`[^`]*`", "", node.value.value.lower())
                found += [f"{at(path, node)}: {word}" for word in sorted(set(re.findall(r"[a-z]+", text)) & PERSONS)]
    assert found == []


def test_files_and_classes_have_names_of_their_own():
    stems = [path.stem for path in modules() if path.stem not in ("__init__", "settings", "base")]
    classes = [node.name for path in modules() for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef)]
    assert sorted({name for name in stems if stems.count(name) > 1}) == []
    assert sorted({name for name in classes if classes.count(name) > 1}) == []


# -- code ------------------------------------------------------------------------------------------------


def test_no_assert_and_no_bare_except():
    found, functions = [], 0
    for path in modules():
        for node in ast.walk(tree_of(path)):
            functions += isinstance(node, ast.FunctionDef)
            if isinstance(node, ast.Assert) or (isinstance(node, ast.ExceptHandler) and node.type is None):
                found.append(at(path, node))
    assert functions > 400
    assert found == []


def code_runners(tree: ast.AST) -> list[ast.AST]:
    """Places where what stands in a file could run."""
    return [node for name, node in imported(tree) if name in RUNS_CODE_WHEN_IMPORTED] + [
        node for node in ast.walk(tree) if runs_code(node)
    ]


def runs_code(node: ast.AST) -> bool:
    if isinstance(node, ast.Name | ast.Attribute):
        return dotted(node) in RUNS_CODE
    if isinstance(node, ast.ImportFrom):
        return any(f"{node.module}.{alias.name}" in RUNS_CODE for alias in node.names)
    if isinstance(node, ast.keyword):
        switched_off = isinstance(node.value, ast.Constant) and node.value.value is False
        return node.arg in ("allow_pickle", "shell", "trust_remote_code") and not switched_off
    if isinstance(node, ast.Call):
        said = [keyword.arg for keyword in node.keywords]
        return dotted(node.func) in ("np.load", "numpy.load") and "allow_pickle" not in said
    if isinstance(node, ast.ClassDef):
        bases = [dotted(base).split(".")[-1] for base in node.bases]
        return any(base.endswith("Loader") and base not in SAFE_LOADERS for base in bases)
    return False


def test_nothing_that_is_read_can_run_code():
    assert [at(path, node) for path in modules() for node in code_runners(tree_of(path))] == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import load",
        "torch.load(path)",
        "from torch import load",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
        "importlib.import_module('dill')",
        "class Loose(yaml.FullLoader): ...",
        "eval(text)",
    ],
)
def test_the_search_for_running_code_finds_it(line):
    assert code_runners(ast.parse(line))


@pytest.mark.parametrize("line", ["yaml.safe_load(text)", "np.load(path, allow_pickle=False)", "re.compile(text)"])
def test_the_search_for_running_code_leaves_the_rest_alone(line):
    assert not code_runners(ast.parse(line))


NAMEDTUPLE = {"_replace", "_asdict", "_fields", "_make"}
"""Public members of named tuples."""


def private_names(trees: list[ast.Module]) -> set[str]:
    """Functions, classes, variables and attributes with a leading underscore that these files define."""
    stored = {name for tree in trees for node in ast.walk(tree) for name in names_of(node)}
    return {name for name in stored if re.match("_[^_]", name)} - NAMEDTUPLE


def private_uses(tree: ast.Module, private: set[str]) -> list[ast.AST]:
    """Places that read, import or name such a thing of another object."""
    # A test's class may have fields of the same name; to set an attribute of another object defines none.
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    own = private_names([tree]) - {node.attr for node in attributes if dotted(node.value) != "self"}
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found += [node for alias in node.names if alias.name in private]
        elif isinstance(node, ast.Attribute) and node.attr in private - own:
            found.append(node)
        elif isinstance(node, ast.Call):  # monkeypatch.setattr(module, "_name", …)
            named = [item.value for item in node.args if isinstance(item, ast.Constant) and isinstance(item.value, str)]
            found += [node for text in named if re.fullmatch(r"[\w.]+", text) and set(text.split(".")) & private]
    return found


def test_tests_use_public_names_of_the_package():
    private = private_names([tree_of(path) for path in modules()])
    assert len(private) > 300
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert [at(path, node) for path in tests for node in private_uses(tree_of(path), private)] == []


@pytest.mark.parametrize(
    "line", ["stream._decoder", "from asr_kd.files import _decoder", 'monkeypatch.setattr("asr_kd.files._decoder", 1)']
)
def test_the_search_for_private_names_finds_them(line):
    assert private_uses(ast.parse(line), {"_decoder"})
    assert not private_uses(ast.parse("self._decoder = 1; self._decoder"), {"_decoder"})


def homes_of(name: str) -> set[str]:
    homes = ONE_HOME[name]
    return {homes} if isinstance(homes, str) else set(homes)


def test_each_client_of_another_project_has_one_home():
    homes: dict[str, set[str]] = {name: set() for name in ONE_HOME}
    for path in modules():
        for name, _ in imported(tree_of(path)):
            if name in homes:
                file = str(path.relative_to(PACKAGE))
                homes[name].add(next((home for home in homes_of(name) if file.startswith(home)), file))
    assert homes == {name: homes_of(name) for name in ONE_HOME}


def test_what_comes_with_extras_is_imported_late():
    early = []
    for path in modules():
        for node in tree_of(path).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                early += [at(path, node) for name, _ in imported(node) if name in LATE]
    assert early == []


# -- everything under version control --------------------------------------------------------------------


@cache
def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert len(found) > 100
    return [path for path in found if path.is_file() and path.suffix not in BINARY]


def test_no_file_names_a_machine_or_a_registry():
    pattern = re.compile("|".join(MACHINE))
    found = []
    for path in tracked():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            allowed = path == ROOT / ".ci" / "run" and line.count(MACHINE[-1].replace("\\", ""))
            if pattern.search(line) and not allowed:
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_nothing_large_or_generated_is_under_version_control():
    paths = tracked()
    assert [str(path) for path in paths if path.stat().st_size > 1_000_000] == []
    assert [str(path) for path in paths if {"exp", "__pycache__", ".venv"} & set(path.relative_to(ROOT).parts)] == []
