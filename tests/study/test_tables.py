"""Statistics and settings of the long table against arithmetic by hand."""

import json

import made_up
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

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
