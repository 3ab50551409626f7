"""The analysis from what Git holds."""

import pandas as pd
import pytest
from typed import typed

from study import verdicts


def test_a_fresh_clone_recomputes_every_table_figure_and_verdict(clone):
    printed = typed(clone, "python -m study.pipeline verdicts")
    files = ["accuracy.csv", "claims.csv", "analysis/ledger.csv", "analysis/metrics.json", "analysis/figures/headline.png"]
    assert all(f"  {file}: the same" in printed for file in files)
    assert typed(clone, "git status --porcelain") == ""


def test_a_changed_number_of_runs_is_reported_with_the_claim_that_it_moves(clone):
    path = clone / "results" / "pitfalls" / "runs.csv"
    runs = pd.read_csv(path, keep_default_na=False)
    rows = (runs.variant == "overlap") & (runs.method == "CE") & (runs.metric == "inflation")
    runs["value"] = runs["value"].astype(object)
    runs.loc[rows, "value"] = 99.0
    runs.to_csv(path, index=False, lineterminator="\n")
    printed = typed(clone, "python -m study.pipeline verdicts", fails=True)
    assert "O4a: effect was" in printed and "is 99.0" in printed and "Something differs" in printed


@pytest.fixture
def folders(tmp_path):
    for name in ("stored", "again"):
        (tmp_path / name / "analysis").mkdir(parents=True)
        pd.DataFrame({"id": ["S1", "S2"], "effect": [1.0, None]}).to_csv(tmp_path / name / "claims.csv", index=False)
        pd.DataFrame({"method": ["CE"], "mean": [80.0]}).to_csv(tmp_path / name / "accuracy.csv", index=False)
        (tmp_path / name / "analysis" / "metrics.json").write_text('{"CE": 70.0}')
    return tmp_path / "stored", tmp_path / "again"


def test_rounding_and_blanks_are_no_difference(folders, capsys):
    stored, again = folders
    pd.DataFrame({"id": ["S1", "S2"], "effect": [1.0 + 1e-9, None]}).to_csv(again / "claims.csv", index=False)
    assert verdicts.report(stored, again) == 0
    assert "claims.csv: the same" in capsys.readouterr().out


@pytest.mark.parametrize("effects", [[1.1, None], [1.0, 2.0]])
def test_another_number_is_named_with_its_row_and_column(folders, capsys, effects):
    stored, again = folders
    pd.DataFrame({"id": ["S1", "S2"], "effect": effects}).to_csv(again / "claims.csv", index=False)
    assert verdicts.report(stored, again) == 1
    assert "effect was" in capsys.readouterr().out


def test_a_missing_file_and_another_metric_are_named(folders, capsys):
    stored, again = folders
    (again / "claims.csv").unlink()
    (again / "analysis" / "metrics.json").write_text('{"CE": 71.0}')
    assert verdicts.report(stored, again) == 1
    printed = capsys.readouterr().out
    assert "is missing in" in printed and "CE was 70.0, is 71.0" in printed
