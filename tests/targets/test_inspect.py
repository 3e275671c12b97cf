"""Looking into stores: right numbers, damage by name, frames that can be read; and what one would cost."""

import json
import re
from uuid import uuid4

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from asr_kd.cli import app
from asr_kd.errors import TargetsError
from asr_kd.posteriors import DensePosteriors
from asr_kd.targets import Store, extract
from asr_kd.targets.extraction_checks import plan_lines
from asr_kd.targets.fidelity import read_fidelity
from asr_kd.targets.inspect import sample_lines, summarize, verify
from asr_kd.targets.sharding import Share
from asr_kd.targets.storage import open_storage
from asr_kd.targets.store_index import read_vocabulary
from tests.helpers.fake_teacher import FakeTeacher

FRAMES = ["blank", "blank", "blank", "a", "a", "blank", "torn", "b", "blank"]
"""Best path of the teacher below."""


class SpellingTeacher(FakeTeacher):
    """Says the same nine frames of every utterance, "ab" with one doubt."""

    def log_probs(self, waveforms, sample_lens):
        ids = {"blank": 0, "a": self.vocabulary.symbols.index("a"), "b": self.vocabulary.symbols.index("b")}
        probs = torch.zeros(len(waveforms), len(FRAMES), len(self.vocabulary))
        for index, what in enumerate(FRAMES):
            for token, share in {"torn": {"b": 0.75, "blank": 0.25}}.get(what, {what: 1.0}).items():
                probs[:, index, ids[token]] = share
        return DensePosteriors(probs.log(), torch.full((len(waveforms),), len(FRAMES)))


@pytest.fixture
def folder(tmp_path, corpus, settings):
    extract(SpellingTeacher(), corpus, settings, tmp_path / "store")
    return tmp_path / "store"


def run(*arguments: str):
    return CliRunner().invoke(app, ["targets", *map(str, arguments)], catch_exceptions=False)


def test_a_summary_of_known_frames(folder, corpus):
    store = Store.open(folder)
    kept = read_fidelity(store.storage)
    assert kept.sampled_frames == kept.sampled_utterances * len(FRAMES)
    assert kept.blank_share == pytest.approx(5 / 9)
    torn = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert kept.teacher_entropy == pytest.approx(torn / 9)
    assert kept.argmax_agreement == 1.0
    text = "\n".join(summarize(folder))
    assert f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.4g} MB in all" in text
    assert f"shards: {len(store.info.shards)} of {len(store.info.shards)}\n" in text
    assert f"utterances: {len(corpus)}, and 0 quarantined" in text
    assert f"frames: {2 * len(corpus) * len(FRAMES)} of 40 ms" in text
    assert "teacher: fake, weights aaaaaaaaaaaa…" in text
    assert f"bytes a frame: {store.info.bytes_per_frame:.3f}" in text
    assert "variants: speed-1.0, speed-0.9" in text


def test_an_unfinished_store_with_quarantine_is_reported(tmp_path, corpus, settings):
    corpus[0].audio.unlink()
    settings = settings.model_copy(update={"max_quarantine_share": 0.2})
    extract(SpellingTeacher(), corpus, settings, tmp_path / "s", Share(0, 2))
    lines = summarize(tmp_path / "s")
    assert any("unfinished" in line for line in lines)
    assert verify(tmp_path / "s").ok
    assert "the others are not extracted yet" in verify(tmp_path / "s").lines()[0]


def test_verify_names_every_damaged_file(folder):
    assert verify(folder).ok
    good = run("verify", folder)
    assert (good.exit_code, "SHA-256 that the index names" in good.output) == (0, True)
    shards = sorted(folder.glob("*.safetensors"))
    content = bytearray(shards[0].read_bytes())
    content[-1] ^= 1
    shards[0].write_bytes(content)
    shards[1].unlink()
    shards[2].write_bytes(b"short")
    (folder / "tokens.txt").write_text("<blk> 0\nx 1\n")
    found = verify(folder)
    assert not found.ok
    assert [line.split(": ")[1] for line in found.damage[:3]] == ["is damaged", "is missing", "is damaged"]
    bad = run("verify", folder)
    assert bad.exit_code == 1
    for name in [*(path.name for path in shards[:3]), "tokens.txt"]:
        assert name in bad.output
    assert all(path.name not in bad.output for path in shards[3:])


def test_a_store_without_its_vocabulary_is_damaged(folder):
    (folder / "tokens.txt").unlink()
    assert [line.split(": ")[0] for line in verify(folder).damage] == [f"{folder}/tokens.txt"]
    with pytest.raises(TargetsError, match=r"tokens.txt: is not there"):
        sample_lines(folder)


@pytest.mark.parametrize("verb", ["info", "verify", "sample"])
def test_no_store_is_an_error(verb, tmp_path):
    with pytest.raises(TargetsError, match="no soft targets here"):
        run(verb, tmp_path)


def test_a_lattice_can_be_read(folder, corpus):
    known = corpus[0].id
    lines = sample_lines(folder, known)
    assert lines[0].startswith(f"{known} (speed-1.0): 9 frames of 40 ms, 0.36 s, 1.11 entries a frame")
    assert lines[1] == "best path: ab"
    rows = [line.split() for line in lines[3:]]
    assert [row[0] for row in rows] == ["0.020", "0.140", "0.180", "0.220", "0.260", "0.300", "0.340"]
    assert [" ".join(row[1:4:2]) if row[2] == "×" else row[1] for row in rows] == [
        "∅ 3",
        "a",
        "a",
        "∅ 1",
        "b",
        "b",
        "∅ 1",
    ]
    assert float(rows[4][2]) == pytest.approx(0.75, abs=0.05)
    assert rows[4][3] == "∅"
    assert float(rows[4][4]) == pytest.approx(0.25, abs=0.05)


def test_sample_draws_and_draws_again(folder, corpus):
    ids = {run("sample", folder, "--seed", str(seed)).output.split(" ")[0] for seed in range(40)}
    assert len(ids) > 4
    assert ids <= {utterance.id for utterance in corpus}
    assert run("sample", folder, "--seed", "3").output == run("sample", folder, "--seed", "3").output
    assert "speed-0.9" in run("sample", folder, corpus[1].id, "--variant", "speed-0.9").output
    with pytest.raises(TargetsError, match="no targets for utterance 'nobody'"):
        run("sample", folder, "nobody")
    with pytest.raises(TargetsError, match=r"no targets for variant 'speed-2\.0'"):
        run("sample", folder, corpus[1].id, "--variant", "speed-2.0")


def test_info_is_printed(folder):
    printed = run("info", folder)
    assert printed.exit_code == 0
    assert printed.output.splitlines() == summarize(folder)


def test_a_store_behind_a_url_is_looked_into(corpus, settings, tmp_path, monkeypatch):
    monkeypatch.setenv("ASR_KD_CACHE", str(tmp_path / "cache"))
    url = f"memory://{uuid4().hex}"
    extract(SpellingTeacher(), corpus, settings, url)
    assert verify(url).ok
    assert "argmax agreement 100.00 %" in summarize(url)[-1]
    assert sample_lines(url)[1] == "best path: ab"


def test_the_store_carries_its_vocabulary(folder):
    info = Store.open(folder).info
    assert read_vocabulary(open_storage(folder), info) == SpellingTeacher().vocabulary


def test_a_resumed_extraction_puts_the_vocabulary_back(folder, corpus, settings):
    text = (folder / "tokens.txt").read_text()
    (folder / "tokens.txt").write_text(text.replace("a", "z"))
    assert not verify(folder).ok
    extract(SpellingTeacher(), corpus, settings, folder)
    assert verify(folder).ok


def test_a_plan_counts_and_estimates(tmp_path, corpus, settings):
    lines = plan_lines(FakeTeacher(), corpus, settings, workers=4)
    extract(FakeTeacher(), corpus, settings, tmp_path / "s")
    info = Store.open(tmp_path / "s").info
    assert lines[0].startswith(f"  {len(corpus)} utterances, ")
    assert f"  {len(info.shards)} shards, about {info.frames} frames" in lines[1], "the sample is everything here"
    assert "each on 4 workers" in lines[2]
    assert lines[3].startswith(f"  estimated from {len(corpus)} utterances (")
    assert "cannot be used" not in lines[3]
    assert not list(tmp_path.glob("plan*"))


def test_a_plan_of_a_part_scales_up(corpus, settings):
    whole = plan_lines(FakeTeacher(), corpus, settings)
    part = plan_lines(FakeTeacher(), corpus, settings, sample_seconds=5.0)
    sampled = int(re.search(r"estimated from (\d+) utterances", part[3])[1])
    assert 1 < sampled < len(corpus) // 2 + 1
    frames, all_frames = (int(re.search(r"about (\d+) frames", lines[1])[1]) for lines in (part, whole))
    assert frames == pytest.approx(all_frames, rel=0.1)
    assert part[0] == whole[0]


def test_a_plan_counts_what_cannot_be_used(corpus, settings):
    corpus[0].audio.unlink()
    assert "1 of them cannot be used" in plan_lines(FakeTeacher(), corpus, settings)[-1]
    for utterance in corpus[1:]:
        utterance.audio.unlink()
    with pytest.raises(TargetsError, match="none of the 9 sampled utterances can be used"):
        plan_lines(FakeTeacher(), corpus, settings)
    with pytest.raises(TargetsError, match="no utterances"):
        plan_lines(FakeTeacher(), [], settings)


def test_the_index_is_json_that_others_can_read(folder):
    assert json.loads((folder / "store.json").read_text())["planned_shards"] == len(list(folder.glob("*.safetensors")))
