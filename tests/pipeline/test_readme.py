"""What the README says still holds."""

import re
from pathlib import Path

import pandas as pd
import pytest

from study import pipeline
from study import runs as experiment
from study.paths import ROOT

README = (ROOT / "README.md").read_text()


LOSSES, SCRIPT = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_of_the_losses_runs():
    scope = {}
    exec(LOSSES, scope)
    assert scope["loss"].isfinite() and scope["embeddings"].grad.isfinite().all()


def test_the_script_for_several_processes_asks_for_the_run_it_names(monkeypatch):
    asked = []
    monkeypatch.setattr(experiment, "run_all", lambda runs, setup: asked.append((runs, setup)) or [None])
    monkeypatch.chdir(ROOT)
    exec(SCRIPT, {})
    (((run,), setup),) = asked
    assert (run.method, run.queue_size, setup.batch_size) == ("SupCon", 1024, 128) and Path(setup.shared).name == "shared"


def test_the_results_are_those_of_the_tables():
    assert pipeline.with_results(README, ROOT / "results") == README


@pytest.mark.parametrize(
    "changed, column", [("table.csv", "mean"), ("cost.csv", "value"), ("claims.csv", "verdict"), ("estimates.csv", "gpu_hours")]
)
def test_a_changed_number_changes_the_results(tmp_path, changed, column):
    for name in ("table.csv", "cost.csv", "claims.csv", "estimates.csv"):
        table = pd.read_csv(ROOT / "results" / name)
        if name == changed:
            table[column] = "refuted" if column == "verdict" else table[column] + 1e9
        table.to_csv(tmp_path / name)
    assert pipeline.with_results(README, tmp_path) != README


def test_every_link_leads_to_a_file():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_command_is_a_target():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z]+)", README)) <= set(targets)


def test_the_tree_names_every_module():
    for path in (ROOT / "src" / "supcl").glob("[a-z]*.py"):
        assert path.stem == "paths" or f"  {path.name} " in README, path.name
