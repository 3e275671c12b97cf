"""What prepare writes is what the next stage reads."""

import json

import pytest

from asr_kd.corpora.corpus import read_prepared, write_prepared
from asr_kd.corpora.prepare import prepare
from asr_kd.corpora.settings import An4Settings, LibriSpeechSettings
from asr_kd.errors import CorpusError


@pytest.fixture
def work_dir(an4_folder, tmp_path):
    folder = tmp_path / "exp"
    write_prepared(prepare(An4Settings(root=an4_folder), folder), folder)
    return folder


def test_round_trip(an4_folder, work_dir):
    (an4_folder / "wav" / "an4_clstk" / "mab" / "an100-mab-b.wav").write_bytes(b"no audio")
    corpus = prepare(An4Settings(root=an4_folder), work_dir)
    assert corpus.excluded
    write_prepared(corpus, work_dir)
    assert read_prepared(work_dir, check_files=True) == corpus
    described = json.loads((work_dir / "manifests" / "corpus.json").read_text())
    assert described["train"]["utterances"] == len(corpus.train)
    assert described["synthetic"] is False


def test_sets_of_an_earlier_choice_are_removed(an4_folder, work_dir):
    assert (work_dir / "manifests" / "devtest.jsonl").is_file()
    write_prepared(prepare(An4Settings(root=an4_folder, fold="none"), work_dir), work_dir)
    assert not (work_dir / "manifests" / "devtest.jsonl").exists()
    assert read_prepared(work_dir).sets.keys() == {"dev"}


def test_nothing_prepared_is_said(tmp_path):
    with pytest.raises(CorpusError, match=r"is not prepared.*asr-kd prepare"):
        read_prepared(tmp_path)


@pytest.mark.parametrize("change", [{"format": 99}, {"sets": 3}, {"excluded": [1]}, {"dev_sets": None}])
def test_another_version_or_a_broken_description_is_refused(work_dir, change):
    path = work_dir / "manifests" / "corpus.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CorpusError, match=r"corpus\.json: cannot be used"):
        read_prepared(work_dir)


def test_a_shortened_manifest_is_refused(work_dir):
    path = work_dir / "manifests" / "dev.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(CorpusError, match=r"dev\.jsonl: has another SHA-256 than corpus\.json states"):
        read_prepared(work_dir)


def test_missing_files_are_found_when_asked_for(an4_folder, work_dir):
    (an4_folder / "wav" / "an4_clstk" / "mab" / "an100-mab-b.wav").unlink()
    read_prepared(work_dir)
    with pytest.raises(CorpusError, match=r"an100-mab-b\.wav: no such file"):
        read_prepared(work_dir, check_files=True)


def test_a_split_in_two_roles_is_refused():
    with pytest.raises(ValueError, match="dev-clean occurs more than once"):
        LibriSpeechSettings(test=["dev-clean"])
