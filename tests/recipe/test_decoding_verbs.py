"""lm build, tune, evaluate and transcribe with a beam, on the tiny recipe."""

import json
from pathlib import Path

import pytest
import torch

from asr_kd.corpora.corpus import PreparedCorpus, write_prepared
from asr_kd.corpora.formats.catalogue import convert
from asr_kd.corpora.manifest import Utterance, read_manifest, write_manifest
from asr_kd.errors import LanguageModelError
from asr_kd.files import json_text
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.language_models import build_lm, words_path
from asr_kd.recipe.settings import load_recipe
from asr_kd.recipe.systems import decoding_inputs, decoding_of
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.corpus_layouts import write_audio
from tests.helpers.tiny_run import RECIPE, command, one_line


@pytest.fixture
def model(copy):
    """A language model and lexicon of the recipe's own training transcripts."""
    out = copy.work_dir / "lm" / "words.arpa.gz"
    built = command("lm", "build", str(copy.file("manifests", "train.jsonl")), "--out", str(out), "--order", "2")
    assert built.code == 0, built.err
    assert "2-grams" in built.out
    return out


def opened(run, *overrides) -> RunContext:
    """The run's context."""
    return RunContext(load_recipe(RECIPE, [f"work_dir={run.work_dir}", f"corpus.root={run.corpus_root}", *overrides]))


def beam(model):
    words = model.with_name("words.words.txt")
    return [f"evaluate.decoding.{key}" for key in ("kind=beam", f"lm={model}", f"lexicon={words}", "beam_size=8")]


def test_tuned_weights_are_used_by_evaluation_and_by_transcribe(copy, model):
    tuned = copy.command("tune", *beam(model), "--only", "student-kd", "--lm-weights", "0,1", "--word-scores", "0")
    assert tuned.code == 0, tuned.err
    assert "lm_weight" in tuned.out
    path = copy.file("decoding", "student-kd.json")
    found = json.loads(path.read_text())
    assert found["dev"]["utterances"] == len(read_manifest(copy.file("manifests", "dev.jsonl")))
    assert len(found["tried"]) >= 2

    quick = ["evaluate.rtf_utterances=0", "evaluate.sample_utterances=0"]
    evaluated = copy.command("evaluate", *beam(model), *quick)
    assert evaluated.code == 0, evaluated.err
    systems = json.loads(copy.file("report", "results.json").read_text())["models"]
    assert systems["student_kd"]["decoding"]["lm_weight"] == found["decoding"]["lm_weight"]
    assert systems["teacher"]["decoding"].get("lm_weight") is None, "not tuned"
    assert "evaluate: skipped" in copy.command("evaluate", *beam(model), *quick).did

    context = opened(copy, *beam(model))
    before = decoding_inputs(context, ["student-kd"])
    assert before == decoding_inputs(context, ["student-kd"])
    path.write_text(json_text({**found, "decoding": {**found["decoding"], "lm_weight": 3.0}}))
    assert before != decoding_inputs(context, ["student-kd"]), "evaluation runs again"
    model.with_name("words.words.txt").write_text("ONE\n")
    assert before[0] != decoding_inputs(context, ["student-kd"])[0]

    audio = str(read_manifest(copy.file("manifests", "dev.jsonl"))[0].audio)
    bundle = str(copy.file("export", "student-kd"))
    spoken = command("transcribe", bundle, audio, "--decoding", str(path), "--words", "json")
    assert spoken.code == 0, spoken.err
    assert set(json.loads(spoken.out)) == {"audio", "text", "words", "nbest"}
    assert command("transcribe", bundle, audio, "--hotword", "ONE", "--words", "ctm").code == 0


def test_weights_of_another_model_are_not_used(copy, model):
    copy.command("tune", *beam(model), "--only", "student-hard", "--lm-weights", "1", "--word-scores", "0")
    path = copy.file("decoding", "student-hard.json")
    context = opened(copy, *beam(model))
    tuned = json.loads(path.read_text())
    assert decoding_of(context, "student-hard").lm_weight == tuned["decoding"]["lm_weight"]
    assert decoding_of(context, "student-kd").lm_weight is None
    stated = opened(copy, *beam(model), "evaluate.decoding.lm_weight=7")
    assert decoding_of(stated, "student-hard").lm_weight == 7, "what the recipe says counts"
    for changed in ({"lm": "0" * 64}, {"model": "0" * 64}, {"search": "0" * 64}):
        path.write_text(json_text({**tuned, "tuned_for": {**tuned["tuned_for"], **changed}}))
        assert decoding_of(context, "student-hard").lm_weight is None
    path.write_text("{")
    with pytest.raises(LanguageModelError, match="asr-kd tune"):
        decoding_of(context, "student-hard")


def test_what_cannot_be_tuned_or_built_is_said(copy, tmp_path):
    nothing = copy.command("tune")
    assert (nothing.code, "nothing to tune" in nothing.err) == (1, True)
    words = tmp_path / "words.txt"
    words.write_text("ONE\nTWO\n")
    options = ["evaluate.decoding.kind=beam", f"evaluate.decoding.lexicon={words}"]
    strange = copy.command("tune", *options, "--only", "nobody")
    assert "nobody is not trained yet" in strange.err
    heavy = copy.command("tune", *options, "--lm-weights", "1,25")
    assert "the LM weight 25 cannot be used; expected 0 to 20" in heavy.err
    folder = command("tune", str(tmp_path), *options)
    assert "recipe.resolved.yaml" in folder.err
    usage = command("lm", "build", str(words), "--out", str(tmp_path / "x.arpa"), "--unit", "token")
    assert (usage.code, "tokens.txt" in usage.err) == (2, True)
    assert command("lm", "build", str(words), "--out", str(tmp_path / "x.arpa"), "--prune", "a").code == 2


def test_a_model_over_tokens_and_of_a_recipe(copy, tmp_path):
    out = tmp_path / "tokens.arpa"
    tokens = copy.file("manifests", "tokens.txt")
    built = command(
        "lm", "build", str(copy.file("manifests", "train.jsonl")), "--out", str(out), "--tokens", str(tokens), "--unit",
        "token", "--order", "4",
    )  # fmt: skip
    assert built.code == 0, built.err
    assert "▁" in out.read_text()
    assert not out.with_name("tokens.words.txt").exists()
    unprepared = command("lm", "build", str(RECIPE), "--out", str(tmp_path / "y.arpa"))
    assert "not prepared" in unprepared.err


def test_a_model_of_a_run_or_folder_holds_no_evaluation_sets(copy, tmp_path):
    out = tmp_path / "run.arpa"
    built = command("lm", "build", str(copy.work_dir), "--out", str(out))
    assert built.code == 0, built.err
    train = {word for u in read_manifest(copy.file("manifests", "train.jsonl")) for word in (u.text or "").split()}
    assert set(words_path(out).read_text().split()) == train
    corpus = copy.corpus_root / "synthetic"
    message = one_line(command("lm", "build", str(corpus), "--out", str(tmp_path / "x.arpa")))
    assert "holds evaluation sets: dev, test" in message
    assert command("lm", "build", str(corpus / "train"), "--out", str(tmp_path / "train.arpa")).code == 0


def test_a_model_over_words_is_refused_without_its_lexicon_although_letters_are_words(copy, tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder")
    (tmp_path / "letters.txt").write_text("A B C\nI SEE A B\nA I B\n")
    out = tmp_path / "letters.arpa"
    assert command("lm", "build", str(tmp_path / "letters.txt"), "--out", str(out)).code == 0
    beam = ["evaluate.decoding.kind=beam", f"evaluate.decoding.lm={out}", "evaluate.decoding.lm_weight=1"]
    message = one_line(copy.command("evaluate", *beam, "evaluate.decoding.word_score=0"))
    assert "it holds none of '▁'" in message
    assert "Name a lexicon for a model over words" in message


def test_a_run_that_was_moved_is_tuned_in_its_new_place_with_the_recipes_threads(copy, model, tmp_path, monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    moved = copy.work_dir.rename(tmp_path / "2024")
    options = [word.replace(str(copy.work_dir), str(moved)) for word in beam(model)]
    monkeypatch.chdir(tmp_path)
    tuned = command("tune", "2024", *options, "--only", "student-kd", "--lm-weights", "1", "--word-scores", "0")
    assert tuned.code == 0, tuned.err
    assert (moved / "decoding" / "student-kd.json").is_file()
    assert threads == [1]


def test_lm_build_reads_the_text_of_manifests_of_other_tools(tmp_path):
    rows = [Utterance(f"s-{n}", write_audio(tmp_path / f"{n}.flac", 1.0), 1.0, "ONE TWO", "s") for n in range(3)]
    write_manifest(tmp_path / "own.jsonl", rows)
    wanted = ["ONE", "TWO"]
    for name, form in (("a.json", "nemo"), ("a.csv", "speechbrain"), ("a.jsonl.gz", "lhotse"), ("kaldi", "kaldi")):
        convert(tmp_path / "own.jsonl", tmp_path / name, "auto", form)
        out = tmp_path / f"{form}.arpa"
        build_lm([tmp_path / name], out, 2)
        assert words_path(out).read_text().split() == wanted, form
    (tmp_path / "kaldi" / "text").unlink()
    with pytest.raises(LanguageModelError, match="kaldi/text: no such file"):
        build_lm([tmp_path / "kaldi"], tmp_path / "x.arpa", 2)


def test_lm_build_of_a_run_without_transcripts_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    audio = write_audio(tmp_path / "speech" / "a.flac", 1.0)
    write_manifest(tmp_path / "dev.jsonl", [Utterance("d", audio, 1.0, "ONE", "s")])
    train = [Utterance("t", audio, 1.0, None, "t")]
    recipe = {
        "name": "calls",
        "work_dir": "exp",
        "corpus": {"kind": "folder", "train": "speech", "dev": "dev.jsonl"},
        "vocabulary": {"alphabet": "AB"},
        "teachers": {"t": {"source": "torchaudio:WAV2VEC2_ASR_BASE_960H"}},
        "students": {"a": {"model": {"size": "tiny"}, "train": {"epochs": 1}, "distill": {"kd_weight": 1}}},
    }
    Path("calls.yaml").write_text(json.dumps(recipe))
    Vocabulary(("<blk>", "A")).save(tmp_path / "exp" / "manifests" / "tokens.txt")
    dev = read_manifest(tmp_path / "dev.jsonl")
    write_prepared(PreparedCorpus("folder", train, {"dev": dev}), Path("exp"), ["tokens.txt"])
    with pytest.raises(LanguageModelError, match=r"^calls\.yaml: its training set has no transcripts; .*\.txt"):
        build_lm([Path("calls.yaml")], tmp_path / "x.arpa", 2)
