"""No command deletes or overwrites a file that asr-kd did not write: imports, synthetic corpora, models, manifests."""

import json

import pytest

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.settings import SyntheticSettings
from asr_kd.corpora.synthetic import write_synthetic
from asr_kd.errors import AsrKdError
from asr_kd.models.weights import load_model, save_model
from asr_kd.targets.importing import import_hypotheses
from tests.helpers.tiny_models import save_tiny_model
from tests.helpers.tiny_run import one_line


@pytest.mark.parametrize("name", ["quarantine.jsonl", "shard-00000.jsonl"])
def test_an_import_replaces_no_foreign_file(tmp_path, name):
    source, into = tmp_path / "others.jsonl", tmp_path / "into"
    source.write_text(json.dumps({"id": "a", "text": "one"}) + "\n")
    into.mkdir()
    (into / name).write_text("a user's")
    (into / "notes.txt").write_text("a user's")
    utterance = Utterance("a", source, 1.0, None, "s")
    with pytest.raises(AsrKdError, match=f"{name}: exists, and asr-kd did not write it"):
        import_hypotheses(source, [utterance], into, "librispeech")
    (into / name).unlink()
    import_hypotheses(source, [utterance], into, "librispeech")
    import_hypotheses(source, [utterance], into, "librispeech")  # ours are replaced
    assert (into / "notes.txt").read_text() == "a user's"


def test_a_synthetic_corpus_with_a_foreign_file_is_not_replaced(tmp_path):
    pytest.importorskip("espeakng_loader")
    sizes = {f"{split}_{what}": 1 for split in ("train", "dev", "test") for what in ("utterances", "speakers")}
    write_synthetic(SyntheticSettings(**sizes), tmp_path / "synthetic")
    (tmp_path / "synthetic" / "train" / "mine.txt").write_text("a user's")
    with pytest.raises(AsrKdError, match=r"did not write there: train/mine\.txt"):
        write_synthetic(SyntheticSettings(**sizes, seed=1), tmp_path / "synthetic")
    assert (tmp_path / "synthetic" / "train" / "mine.txt").read_text() == "a user's"
    (tmp_path / "synthetic" / "train" / "mine.txt").unlink()
    write_synthetic(SyntheticSettings(**sizes, seed=1), tmp_path / "synthetic")


def test_a_model_folder_with_a_foreign_file_is_not_replaced(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    loaded = load_model(folder)
    save_model(folder, loaded.model, loaded.vocabulary, {})
    (folder / "notes.txt").write_text("a user's")
    with pytest.raises(AsrKdError, match=r"did not write there: notes\.txt"):
        save_model(folder, loaded.model, loaded.vocabulary, {})
    assert (folder / "notes.txt").read_text() == "a user's"


def test_a_manifest_of_a_set_that_the_recipe_no_longer_has_leaves_its_name_to_others(copy):
    folder = copy.file("manifests")
    listed = folder / ".asr-kd-files"
    listed.write_text(listed.read_text() + "old.jsonl\n")
    (folder / "old.jsonl").write_text("{}\n")
    assert copy.command("prepare", "--force").code == 0
    assert not (folder / "old.jsonl").exists()
    assert "old.jsonl" not in listed.read_text()
    (folder / "old.jsonl").write_text("a user's")
    assert copy.command("prepare", "--force").code == 0
    assert (folder / "old.jsonl").read_text() == "a user's"
    (folder / "corpus.json").unlink()
    listed.unlink()
    assert "asr-kd did not write it" in one_line(copy.command("prepare"))
