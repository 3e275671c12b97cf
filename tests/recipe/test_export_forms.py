"""A recipe's `export`, end to end: several forms and latencies of a student, and what they replace."""

import json

import pytest

from asr_kd.models.settings import Context
from asr_kd.runtime.bundle import INT8, MODEL, PT2, read_bundle
from asr_kd.runtime.recognizer import open_recognizer
from tests.helpers.tiny_run import Run

FORMS = ("export.formats=[sherpa,pt2]", "export.int8=true", "export.licence=CC0-1.0")
CONTEXTS = "export.contexts=[[4,8],[8,16]]"
FOLDERS = {"chunk-160ms-left-320ms": Context(4, 8), "chunk-320ms-left-640ms": Context(8, 16)}


@pytest.fixture
def exported(copy) -> Run:
    """Exported again, with every setting that export has."""
    outcome = copy.command("export", *FORMS, CONTEXTS)
    assert outcome.code == 0, outcome.err
    assert [line for line in outcome.did if line.startswith("export")] == ["export student-kd: starts"]
    assert all(line.endswith("skipped") for line in outcome.did if not line.startswith("export"))
    assert "formats was ['sherpa'], is ['sherpa', 'pt2']" in outcome.out
    places = [copy.file("export", "student-kd", folder) for folder in FOLDERS]
    assert [line for line in outcome.out.splitlines() if line.startswith("export: ")] == [
        f"export:  {p}" for p in places
    ]
    assert outcome.out.splitlines()[-1] == f"next:    asr-kd transcribe {places[0]} AUDIO..."
    return copy


@pytest.mark.slow
def test_every_latency_holds_every_form_and_takes_turns_with_a_single_one(exported):
    folder = exported.file("export", "student-kd")
    assert sorted(path.name for path in folder.iterdir()) == sorted(FOLDERS)
    test_sets = json.loads(exported.file("report", "results.json").read_text())["test_sets"]
    for name, context in FOLDERS.items():
        info = read_bundle(folder / name).info
        assert list(info.files.graphs) == [MODEL, INT8, PT2]
        assert (info.name, info.licence, info.trace.recipe) == ("student-kd", "CC0-1.0", "tiny")
        assert info.int8_wer["utterances"] >= 6
        assert info.parity["pt2"]["transcripts_equal"] == info.parity["utterances"] == 2
        assert all(open_recognizer(folder / name / form).context == context for form in (MODEL, INT8, PT2))
    rates = [read_bundle(folder / name).info.trace.wer for name in FOLDERS]
    assert set(rates[0]) == set(test_sets), "measured in these chunks"
    assert rates[1] == {}, "and not in these"
    assert exported.command("export", *FORMS, CONTEXTS).did[-1] == "export student-kd: skipped"

    outcome = exported.command("export")
    assert outcome.code == 0, outcome.err
    assert not [path for path in folder.iterdir() if path.name in FOLDERS]
    assert list(read_bundle(folder).info.files.graphs) == [MODEL]
