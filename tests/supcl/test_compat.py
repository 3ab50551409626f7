"""`make compat` finds the bound and the Pythons, and its table and exit status say what happened. Nothing is installed here."""

import subprocess
import sys

import compat
import pytest

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_the_oldest_torch_is_the_bound_of_the_project():
    assert f'dependencies = ["torch>={compat.oldest_torch()}"]' in (compat.ROOT / "pyproject.toml").read_text()


def test_a_python_is_found_if_it_runs(monkeypatch, tmp_path):
    assert compat._output([compat.find_python(HERE), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]) == HERE
    assert compat.find_python("3.99") is None
    broken = tmp_path / "python3.98"  # as pyenv's, where a version is installed but not switched on
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compat.find_python("3.98") is None


@pytest.mark.parametrize("results, status", [(["passed on 2.4.0: 9 passed"], 0), (["passed", "FAILED on 2.4.0: 1 failed"], 1)])
def test_the_table_has_a_line_for_each_pair_and_a_failure_fails(monkeypatch, capsys, tmp_path, results, status):
    remaining = iter(results * 8)
    monkeypatch.setattr(compat, "FOLDER", tmp_path)
    monkeypatch.setattr(compat, "find_python", lambda version: None if version == "3.14" else version)
    monkeypatch.setattr(compat, "check", lambda python, version, torch: next(remaining))
    assert compat.main([]) == status
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [
        [version, torch] for version in compat.PYTHONS for torch in (compat.oldest_torch(), "newest")
    ]
    assert all(("not on this machine" in line) == line.startswith("3.14") for line in lines)


def run_as(outcomes):
    """In place of subprocess.run: writes what a command would, and returns its status. The first word tells the command."""

    def run(command, stdout=None, stderr=None, cwd=None, check=False, **_):
        name = "venv" if "venv" in command else "pip" if "pip" in command else "pytest"
        status, text = outcomes[name]
        stdout.write(text)
        stdout.flush()
        return subprocess.CompletedProcess(command, status)

    return run


OUTCOMES = {
    "passed": ((0, ""), (0, "9 passed in 1s\n"), "passed on 2.4.0: 9 passed in 1s"),
    "failed": ((0, ""), (1, "1 failed, 8 passed\n"), "FAILED on 2.4.0: 1 failed, 8 passed"),
    "no build": ((1, "ERROR: No matching distribution found for torch==2.4\n"), None, "pip has no such torch for it"),
    "no install": ((1, "ERROR: disk full\n"), None, "FAILED to install, see build/compat/python3.12-torch2.4.log"),
}


@pytest.mark.parametrize("pip, pytest_run, expected", OUTCOMES.values(), ids=OUTCOMES.keys())
def test_what_happened_is_said_in_a_few_words(monkeypatch, tmp_path, pip, pytest_run, expected):
    monkeypatch.setattr(compat, "ROOT", tmp_path)
    monkeypatch.setattr(compat, "FOLDER", tmp_path / "build" / "compat")
    compat.FOLDER.mkdir(parents=True)
    monkeypatch.setattr(compat, "_output", lambda command: "2.4.0")
    monkeypatch.setattr(compat.subprocess, "run", run_as({"venv": (0, ""), "pip": pip, "pytest": pytest_run}))
    assert compat.check("python3.12", "3.12", "2.4") == expected
    assert [path.name for path in compat.FOLDER.iterdir()] == ["python3.12-torch2.4.log"]
