"""Rounding raises no alarm, a wrong loss does, and the page names what does not agree."""

import subprocess
from dataclasses import replace

import pandas as pd
import pytest
import torch.nn.functional as F
from small_runs import FEATURES, new_setup, write_arrays

from study import tables, verify
from study.runs import execute
from study.verify import TABLES, compare, report

CLAIMS = pd.DataFrame({
    "data_set": "fashion-mnist", "id": ["a", "b", "c"], "effect": [1.0, 0.2, -3.0], "low": [0.2, -0.8, -4.0],
    "high": [1.8, 1.2, -2.0], "verdict": ["supported", "undecided", "opposite"],
})  # fmt: skip
LEDGER = pd.DataFrame(
    {"id": ["H1", "H6a"], "effect": [1.0, 4.0], "low": [0.5, 3.9], "high": [1.5, 4.1], "over": ["seeds", "rounds"]}
)


def changed(table, row, **values):
    fresh = table.copy()
    fresh.loc[row, list(values)] = list(values.values())
    return fresh


def agreeing(stored, fresh, file):
    return compare(stored, fresh, TABLES[file]).agrees.tolist()


@pytest.mark.parametrize("effect, agrees", [(1.0, True), (1.9, True), (2.3, False), (-5.0, False)])
def test_a_mean_agrees_within_the_interval_of_a_difference(effect, agrees):
    fresh = changed(CLAIMS, 0, effect=effect, low=effect - 0.8, high=effect + 0.8)  # 0.8 and 0.8: 1.13 apart
    assert agreeing(CLAIMS, fresh, "claims.csv") == [agrees, True, True]


def test_what_was_measured_in_seconds_is_the_machine_s_own():
    fresh = changed(changed(LEDGER, 0, effect=9.0), 1, effect=9.0)
    assert agreeing(LEDGER, fresh, "analysis/ledger.csv") == [False, True]


@pytest.mark.parametrize("effect, agrees", [(1.4, True), (1.6, False)])
def test_a_row_without_an_interval_may_move_by_half_a_point(effect, agrees):
    stored = changed(CLAIMS, 0, low=None, high=None)
    assert agreeing(stored, changed(stored, 0, effect=effect), "claims.csv")[0] == agrees


def test_blank_effects_agree_with_blank_ones_alone():
    stored = changed(CLAIMS, 0, effect=None)
    assert agreeing(stored, stored, "claims.csv")[0] and not agreeing(stored, CLAIMS, "claims.csv")[0]


def test_the_page_names_what_does_not_agree_what_is_missing_and_verdicts_that_changed():
    fresh = changed(CLAIMS, 0, effect=8.0)
    fresh = changed(fresh, 1, verdict="supported").drop(index=2)
    page = report({"claims.csv": compare(CLAIMS, fresh, TABLES["claims.csv"])}, "HEAD")
    wrong, verdicts = page.split("## Another verdict")
    assert "| claims.csv | 3 | 1 |" in page
    assert "fashion-mnist a: 1 in Git, 8 now" in wrong and "fashion-mnist c: only in Git" in wrong
    assert "fashion-mnist b" in verdicts and "(undecided; now supported)" in verdicts


# With runs


def rounded_otherwise(outputs, batch):
    return F.cross_entropy(outputs.logits, batch.labels) * (1 + 1e-6)


def of_the_next_image(outputs, batch):
    """As where labels of an earlier batch are kept."""
    return F.cross_entropy(outputs.logits, batch.labels.roll(1))


@pytest.mark.parametrize("objective, agrees", [(rounded_otherwise, True), (of_the_next_image, False)])
def test_rounding_raises_no_alarm_and_a_broken_loss_does(tmp_path, objective, agrees):
    write_arrays(tmp_path)
    setup = new_setup(tmp_path)

    def accuracy(run):
        values = [execute(replace(run, seed=seed), setup).metrics["accuracy"] for seed in range(4)]
        mean, low, high = tables.interval(values)
        names = {"data_set": "digits", "regime": "features", "labels": "all", "method": "CE", "read_out": "own classifier"}
        return pd.DataFrame([names | {"mean": mean, "low": low, "high": high}])

    assert agreeing(accuracy(FEATURES), accuracy(replace(FEATURES, objective=objective)), "accuracy.csv") == [agrees]


# The command


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A Git repository with the three tables, in the place of the project."""
    (tmp_path / "results" / "analysis").mkdir(parents=True)
    accuracy = pd.DataFrame(columns=[*TABLES["accuracy.csv"].names, "mean", "low", "high"])
    for file, table in {"accuracy.csv": accuracy, "claims.csv": CLAIMS, "analysis/ledger.csv": LEDGER}.items():
        table.to_csv(tmp_path / "results" / file, index=False)
    identity = "-c user.name=test -c user.email=test@example.org"
    for command in ("init --quiet", "add --all", f"{identity} commit --quiet --message results"):
        subprocess.run(f"git {command}", shell=True, cwd=tmp_path, check=True)
    monkeypatch.setattr(verify, "ROOT", tmp_path)
    monkeypatch.setattr(verify, "REPORT", tmp_path / "build" / "verify.md")
    return tmp_path


def test_the_command_compares_the_folder_with_git_and_writes_the_page(repository, capsys):
    assert verify.verify() == 0
    changed(CLAIMS, 0, effect=8.0).to_csv(repository / "results" / "claims.csv", index=False)
    assert verify.verify() == 1
    assert "claims.csv: 2 of 3 rows agree; not fashion-mnist a" in capsys.readouterr().out
    assert "fashion-mnist a: 1 in Git, 8 now" in (repository / "build" / "verify.md").read_text()


def test_results_that_are_not_there_are_named(repository):
    (repository / "results" / "claims.csv").unlink()
    with pytest.raises(FileNotFoundError, match="claims.csv is missing. `make repro` writes it"):
        verify.verify()
    with pytest.raises(FileNotFoundError, match="Git has no results/accuracy.csv at v9"):
        verify.verify("v9")
