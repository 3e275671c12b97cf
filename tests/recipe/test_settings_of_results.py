"""What a report, a card or a cache key states is what was run: settings of training, decoding, chunks, and caps."""

import pytest

import asr_kd.export.export_bundle
from asr_kd.corpora.corpus import PreparedCorpus
from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import TargetsError
from asr_kd.evaluation.report import read_results
from asr_kd.files import read_json, write_json
from asr_kd.recipe import extraction
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.export_model import greedy_rates
from asr_kd.recipe.result_tasks import export_task
from asr_kd.recipe.settings import load_recipe
from asr_kd.runtime.bundle import read_bundle
from asr_kd.training.settings import TrainSettings
from tests.helpers.exporters import exporter_that_copies
from tests.helpers.fake_teacher import FakeTeacher
from tests.helpers.noise import write_corpus
from tests.helpers.tiny_run import RECIPE, command, one_line


def test_a_raised_cap_repeats_no_finished_work(copy):
    raised = [
        "teachers.teacher.train.max_bad_share=0.5",
        "students.student-kd.train.max_bad_share=0.5",
        "students.student-hard.train.max_nonfinite_steps=50",
        "students.student-hard.train.checkpoint_minutes=1",
        "students.student-hard.train.feature_cache_mb=1",
        "targets.max_quarantine_share=0.5",
        "evaluate.max_excluded_share=0.5",
    ]
    outcome = copy.command("run", *raised)
    assert outcome.code == 0, outcome.err
    assert {line.split(": ")[1] for line in outcome.did} == {"skipped"}


def test_keys_hold_what_decides_the_result_and_caps_at_their_default():
    plain, raised = TrainSettings(), TrainSettings(max_bad_share=0.5)
    assert raised.key_settings() == plain.key_settings() == plain.model_dump(mode="json")
    assert TrainSettings(epochs=7).key_settings() != plain.key_settings()


def test_another_exported_model_leaves_the_bundles_of_the_others_alone():
    plain, named = (
        RunContext(load_recipe(RECIPE, [f"export={{{models}}}"]))
        for models in ("", "models: [student-kd, student-hard]")
    )
    tasks = [export_task(context, "student-kd") for context in (plain, named)]
    assert tasks[0].settings == tasks[1].settings == plain.recipe.export.model_dump(mode="json")


@pytest.mark.parametrize("verb", ["evaluate", "export"])
def test_models_of_other_training_settings_are_not_evaluated_as_if_they_were_of_these(copy, verb):
    recipe = copy.file("recipe.resolved.yaml").read_bytes()
    message = one_line(copy.command(verb, "students.student-kd.train.epochs=9"))
    assert "student-kd was trained with other settings: train.epochs was 1, is 9" in message
    assert "run from the stage student" in message
    assert copy.file("recipe.resolved.yaml").read_bytes() == recipe
    assert copy.command(verb).did[0].endswith("skipped")


def test_a_card_and_a_bundle_state_greedy_rates_only(copy):
    path = copy.file("report", "results.json")
    rates, card = greedy_rates(path.parent, "student-kd")
    assert rates == {name: found["student_kd"]["wer"] for name, found in read_results(path.parent)["test_sets"].items()}
    assert card is not None
    results = read_json(path)
    results["models"]["student_kd"]["decoding"] = {"kind": "beam"}
    write_json(path, results)
    assert greedy_rates(path.parent, "student-kd") == ({}, None)
    assert greedy_rates(copy.file("nothing"), "student-kd") == ({}, None)


@pytest.mark.slow
def test_no_card_is_written_after_a_beam_search(copy, finished, monkeypatch):
    pytest.importorskip("flashlight.lib.text.decoder")
    quick = ["evaluate.rtf_utterances=0", "evaluate.sample_utterances=0", "export.client=false"]
    beam = ["evaluate.decoding.kind=beam", *quick]
    assert copy.command("evaluate", *beam).code == 0
    assert not list(copy.file("report", "cards").glob("*.md"))
    before = finished.file("export", "student-kd")
    monkeypatch.setattr(asr_kd.export.export_bundle, "write_onnx", exporter_that_copies(before))
    assert copy.command("export", *beam).code == 0
    info = read_bundle(copy.file("export", "student-kd")).info
    assert info.trace.wer == {}
    assert "were not measured" in copy.file("export", "student-kd", "README.md").read_text()


def test_a_chunk_that_was_not_trained_is_said_and_has_no_error_rate(copy):
    outcome = copy.command("export", "export.context=[2, 8]", "export.client=false")
    assert outcome.code == 0, outcome.err
    assert "was not trained with chunks of 80 ms" in outcome.out
    assert "verified" not in outcome.out
    info = read_bundle(copy.file("export", "student-kd")).info
    assert (info.trace.trained, info.trace.wer) == (False, {})
    readme = copy.file("export", "student-kd", "README.md").read_text()
    assert "it was not trained on these" in readme
    assert "model-index" not in readme


def test_a_wrong_teacher_is_noticed_on_dev_where_the_training_set_has_no_transcripts(tmp_path, monkeypatch):
    corpus = write_corpus(tmp_path)
    silent = [Utterance(f"t-{u.id}", u.audio, u.duration, None, u.speaker) for u in corpus]
    prepared = PreparedCorpus("folder", silent, {"dev": corpus})
    monkeypatch.setattr(RunContext, "read_corpus", lambda context: (prepared, None))
    context = RunContext(load_recipe(RECIPE, [f"work_dir={tmp_path}", "sanity={utterances: 4, max_wer: 0.01}"]))
    with pytest.raises(TargetsError, match="of the words"):
        extraction.check_teacher(context, FakeTeacher())


def test_a_wrong_tokens_txt_is_refused_by_prepare(tmp_path, finished):
    (tmp_path / "tokens.txt").write_text("<blk> 0\n▁ 1\nÄ 2\nÖ 3\n", encoding="utf-8")
    wrong = ["vocabulary.kind=file", f"vocabulary.path={tmp_path / 'tokens.txt'}"]
    places = [f"work_dir={tmp_path / 'run'}", f"corpus.root={finished.corpus_root}"]
    message = one_line(command("prepare", str(RECIPE), *places, *wrong))
    assert "40 of 40 utterances cannot be used" in message
    assert "characters outside the vocabulary" in message
    assert "Correct vocabulary.path" in message
    assert not (tmp_path / "run" / "manifests" / "corpus.json").exists()
