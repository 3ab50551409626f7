"""Statistics and settings of the long table against arithmetic by hand."""

import json

import made_up
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from study import tables
from study.tables import with_settings


def test_settings_become_columns_and_are_blank_where_a_run_has_none():
    table = pd.concat([made_up.rows("SupCon", temperature=0.1), made_up.rows("CE", seeds=1)], ignore_index=True)
    read = with_settings(table)
    assert "settings" not in read and read.index.equals(table.index)
    assert (read.temperature[read.method == "SupCon"] == 0.1).all() and read.temperature[read.method == "CE"].isna().all()
    assert (read.batch_size == 50).all() and (read.value == table.value).all()


def test_a_setting_with_the_name_of_a_column_is_refused():
    with pytest.raises(ValueError, match="settings called seed would replace columns"):
        with_settings(made_up.rows("CE").assign(settings=json.dumps({"seed": 1})))


def test_pairs_share_shots_and_what_they_are_trained_on_blank_shots_too():
    runs = pd.concat([made_up.rows("CE", shots=(20, None)), made_up.rows("CLCE", shots=(20, None), gain=2)], ignore_index=True)
    differences = tables.paired_differences(runs, {"method": "CE"}).set_index(["method", "trained_on"])
    assert_allclose(differences.loc[("CLCE", "few-shot"), ["mean", "n"]].tolist(), [2, 3])
    assert_allclose(differences.loc[("CLCE", "features"), ["mean", "n"]].tolist(), [0, 3])


def test_a_sweep_is_compared_with_one_value_of_its_setting():
    sweep = [made_up.rows("SupCon", "sweep temperature", [20], gain=10 * t, temperature=t) for t in (0.1, 0.5)]
    runs = with_settings(pd.concat(sweep, ignore_index=True))
    differences = tables.paired_differences(runs, {"temperature": 0.1}, by=("temperature",))
    assert_allclose(differences[["temperature", "mean", "n"]], [[0.1, 0, 3], [0.5, 4, 3]])
    with pytest.raises(ValueError, match="names several runs with accuracy for one seed; name more columns, such as a setting"):
        tables.paired_differences(runs, {"variant": "sweep temperature"})


def test_what_a_run_learns_from_in_words():
    assert [tables.images_in_words(*of) for of in [("few-shot", 20), ("full", None), ("features", pd.NA)]] == [
        "20 per class", "all images", "all images"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "numbers, words",
    [
        ((1.23, 0.31, 2.1), "better by 1.2 points (95 % interval +0.3 to +2.1)"),
        ((-1.23, -2.1, -0.31), "worse by 1.2 points (95 % interval -2.1 to -0.3)"),
        ((0.4, -0.3, 1.1), "no difference seen (+0.4 points, 95 % interval -0.3 to +1.1)"),
        ((1.1, 0.02, 2.3), "better by 1.10 points (95 % interval +0.02 to +2.30)"),
        ((0.0, 0.0, 0.0), "no difference seen (+0.0 points, 95 % interval +0.0 to +0.0)"),
        ((-0.04, -0.3, 0.2), "no difference seen (-0.04 points, 95 % interval -0.30 to +0.20)"),
        ((1.2, np.nan, np.nan), "+1.2 points in a single pair, which decides nothing"),
    ],
)
def test_verdict_says_what_the_interval_supports(numbers, words):
    assert tables.verdict(*numbers) == words


def test_verdict_takes_other_words():
    assert tables.verdict(7, 3, 11, "%", "slower", "faster") == "slower by 7.0 % (95 % interval +3.0 to +11.0)"


def test_differences_are_counted_by_their_intervals():
    differences = pd.DataFrame({"low": [0.1, -2.0, -1.0, float("nan")], "high": [1.0, -0.1, 1.0, float("nan")]})
    words = tables.tally_in_words(differences, "mixtures")
    assert words == "of 4 mixtures, 1 are higher, 1 are lower and 2 cannot be told apart"


@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=20).filter(lambda v: np.std(v) > 1e-3))
def test_interval_is_scipys_t_interval(values):
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert tables.interval(values) == pytest.approx((np.mean(values), low, high), rel=1e-9, abs=1e-9)


def test_interval_of_a_single_value_has_no_bounds():
    mean, low, high = tables.interval([3.0])
    assert mean == 3 and np.isnan(low) and np.isnan(high)


def runs(*rows):
    """A long table; shots None stands for runs on features."""
    frame = pd.DataFrame(rows, columns=["method", "variant", "dataset", "shots", "seed", "metric", "value"])
    frame["trained_on"] = np.where(frame.shots.isna(), "features", "few-shot")
    return frame.astype({"shots": "Int64"})


def test_summary_has_a_row_per_group_in_the_order_of_appearance():
    table = runs(
        ("SupCon", "b", "digits", 5, 0, "accuracy", 70.0),
        ("SupCon", "b", "digits", 5, 1, "accuracy", 74.0),
        ("SupCon", "b", "digits", 5, 0, "isotropy", 0.5),
        ("CE", "a", "digits", 5, 0, "accuracy", 60.0),
        ("CE", "a", "digits", None, 0, "accuracy", 90.0),
    )
    summary = tables.summarise(table)
    assert summary.columns.tolist() == ["method", "variant", "trained_on", "shots", "mean", "low", "high", "n"]
    keys = summary[["method", "trained_on", "mean", "n"]].values.tolist()
    assert keys == [["SupCon", "few-shot", 72, 2], ["CE", "few-shot", 60, 1], ["CE", "features", 90, 1]]
    assert summary.shots.tolist()[:2] == [5, 5] and pd.isna(summary.shots[2])
    assert summary.low[0] == pytest.approx(72 - stats.t.ppf(0.975, 1) * 2)
    assert tables.summarise(table, metric="isotropy", by=["method"])["mean"].tolist() == [0.5]


def test_summary_keeps_runs_without_a_variant():
    """An empty variant comes back from a CSV file as NaN."""
    table = runs(("CE", np.nan, "digits", 5, 0, "accuracy", 60.0), ("CE", np.nan, "digits", 5, 1, "accuracy", 70.0))
    assert tables.summarise(table)[["mean", "n"]].values.tolist() == [[65, 2]]


def test_differences_are_paired_by_dataset_shots_and_seed():
    table = runs(
        ("CE", "", "digits", 5, 0, "accuracy", 60.0),
        ("CE", "", "digits", 5, 1, "accuracy", 80.0),
        ("CE", "", "digits", 20, 0, "accuracy", 90.0),
        ("CE", "", "digits", 5, 0, "isotropy", 0.1),
        ("SupCon", "", "digits", 5, 1, "accuracy", 81.0),
        ("SupCon", "", "digits", 5, 0, "accuracy", 64.0),
        ("SupCon", "", "digits", 20, 0, "accuracy", 89.0),
        ("SupCon", "", "digits", 20, 1, "accuracy", 10.0),  # the reference did not run this seed
        ("SupCon", "", "other", 5, 0, "accuracy", 10.0),  # nor this dataset
    )
    rows = tables.paired_differences(table, {"method": "CE"})[["method", "shots", "mean", "n"]].values.tolist()
    assert sorted(rows) == [["CE", 5, 0, 2], ["CE", 20, 0, 1], ["SupCon", 5, 2.5, 2], ["SupCon", 20, -1, 1]]


def test_interval_of_differences_is_narrower_than_of_values_when_seeds_share_their_luck():
    luck = [0.0, 10, 20, 30]
    table = runs(
        *[("CE", "", "digits", 5, seed, "accuracy", value) for seed, value in enumerate(luck)],
        *[("SupCon", "", "digits", 5, seed, "accuracy", value + 2 + seed % 2) for seed, value in enumerate(luck)],
    )
    row = tables.paired_differences(table, {"method": "CE"}).query("method == 'SupCon'").iloc[0]
    assert row["mean"] == 2.5 and (row.low, row.high) == pytest.approx(tables.interval([2, 3, 2, 3])[1:])


def test_ambiguous_reference_is_refused():
    table = runs(
        ("CE", "a", "digits", 5, 0, "accuracy", 60.0),
        ("CE", "b", "digits", 5, 0, "accuracy", 61.0),
        ("SupCon", "", "digits", 5, 0, "accuracy", 64.0),
    )
    with pytest.raises(ValueError, match="names several runs with accuracy for one seed"):
        tables.paired_differences(table, {"method": "CE"})
    both = tables.paired_differences(table, {"method": "CE", "variant": "b"})
    assert both["mean"].tolist() == [-1, 0, 3]
