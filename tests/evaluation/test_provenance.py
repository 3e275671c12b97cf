"""Provenance is about this process and this checkout, and about no other."""

import subprocess
from pathlib import Path

import asr_kd
from asr_kd.evaluation import results


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], check=True)


def test_the_command_is_quoted_for_a_shell(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/some/where/bin/asr-kd", "run", "my recipe.yaml", "a.b=1"])
    assert results.command_line() == "asr-kd run 'my recipe.yaml' a.b=1"


def test_the_checkout_of_another_project_is_not_ours(monkeypatch, tmp_path):
    package = tmp_path / "site-packages" / "asr_kd" / "__init__.py"
    package.parent.mkdir(parents=True)
    git(tmp_path, "init", "-q")
    monkeypatch.setattr(asr_kd, "__file__", str(package))
    assert results.git_commit() is None


def test_a_checkout_gives_its_commit_and_whether_it_was_changed(monkeypatch, tmp_path):
    package = tmp_path / "asr_kd" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, *identity, "commit", "-q", "-m", "one")
    monkeypatch.setattr(asr_kd, "__file__", str(package))
    commit = results.git_commit()
    assert commit is not None
    assert len(commit) == 40
    package.write_text("changed = True\n")
    assert results.git_commit() == f"{commit}-dirty"


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert results.git_commit() is None
