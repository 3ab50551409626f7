"""Figures show the numbers of the tables they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from made_up import METHODS, METRICS
from numpy.testing import assert_allclose

from study import tables
from study.analysis import comparison, plots

N = len(METHODS)


def text_of(fig):
    fig.canvas.draw()
    return {text.get_text() for text in fig.findobj(plt.Text)}


def test_results_figure_shows_every_method_once_per_number_of_shots(runs):
    table = comparison.results_table(runs)
    fig = plots.results_figure(table)
    left, right = fig.axes
    assert len(left.containers) == 2 * N and len(right.containers) == 2 * N - 2  # CE has no difference to itself
    assert {*METHODS, "20 per class", "100 per class", "test accuracy (%)", "points above CE"} <= text_of(fig)
    drawn = sorted(round(bars[0].get_xdata()[0], 6) for bars in right.containers)
    assert drawn == sorted(table.difference[table.method != "CE"].round(6))


def test_a_method_that_the_registry_lacks_is_an_error_that_names_it(runs):
    table = comparison.results_table(runs)
    with pytest.raises(ValueError, match="SINCERE cannot be drawn: study.methods.METHODS has CE, .*GenSCL"):
        plots.results_figure(table.replace({"method": {"CLCE": "SINCERE"}}))


def test_curves_figure_has_a_column_per_number_of_shots(curves):
    fig = plots.curves_figure(comparison.curve_summary(curves))
    assert [len(ax.lines) for ax in fig.axes] == [N] * 4
    assert {"relative loss", "epoch", "20 per class", *METHODS} <= text_of(fig)


def test_maps_figure_names_classes_in_every_panel():
    labels = np.array([0, 0, 1, 1])
    points = {method: np.arange(8.0).reshape(4, 2) for method in METHODS}
    fig = plots.maps_figure(points, labels, ["Bag", "Boot"])
    assert [len(ax.collections) for ax in fig.axes][: N + 1] == [1] * N + [0]  # and the key
    assert {*METHODS, "0", "1", "0 Bag", "1 Boot"} <= text_of(fig)
    first = fig.axes[0].texts[0]
    assert first.get_text() == "0" and first.get_position() in [(0, 1), (2, 3)]  # on a point of the class


def test_geometry_figure_has_a_panel_per_metric(runs):
    labels = {metric: f"label of {metric}" for metric in METRICS[1:]}
    fig = plots.geometry_figure(comparison.summarise_each(runs, labels), labels)
    assert [len(ax.containers) for ax in fig.axes] == [2 * N] * 4
    assert {*labels.values(), *METHODS} <= text_of(fig)


def test_confusions_figure_has_a_dot_per_pair_and_method():
    labels = np.array([0, 0, 1, 1, 2, 2])
    predictions = {method: np.array([[0, 1, 0, 1, 2, 2], labels]) for method in METHODS}
    fig = plots.confusions_figure(comparison.confused_pairs(predictions, labels, ["a", "b", "c"], count=3))
    assert len(fig.axes[0].containers) == 3 * N
    assert {"a / b", "images of the two confused (%)", *METHODS} <= text_of(fig)


def test_readout_figure_has_a_line_per_method(runs):
    fig = plots.readout_figure(comparison.summarise_each(runs, METRICS[:3]), dict(zip(METRICS[:3], "abc", strict=True)))
    assert [len(ax.containers) for ax in fig.axes] == [N, N]
    assert {"a", "b", "c", "100 per class", *METHODS} <= text_of(fig)


def test_time_figure_shows_times_and_ratios(runs):
    times = comparison.step_times(runs, classes=10)
    summary = tables.summarise(times, "step_ms", by=("method", "shots"))
    fig = plots.time_figure(summary, comparison.time_ratios(times))
    assert [len(ax.containers) for ax in fig.axes] == [2 * N, 2 * N - 2]
    assert {"time per step (ms)", "ratio to CE", *METHODS} <= text_of(fig)


def test_a_single_seed_is_drawn_without_interval(runs):
    table = comparison.results_table(runs[runs.seed == 0])
    assert table.low.isna().all()
    assert all(not bars.has_xerr for ax in plots.results_figure(table).axes for bars in ax.containers)


def test_axes_of_percentages_end_at_0_and_100(runs):
    table = comparison.results_table(runs).assign(low=-500.0, high=500.0)
    left, right = plots.results_figure(table).axes
    assert left.get_xlim() == (0, 100)
    assert right.get_xlim()[0] < 0


def claim(name, verdict, after_holm, effect=1.26, low=0.03, high=2.5, kind="effect", margin=0.0, unit="points", runs=5):
    row = {"id": name, "paper": name[0], "claim": f"claim {name}", "verdict": verdict, "after_holm": after_holm, "over": "s"}
    return row | {"effect": effect, "low": low, "high": high, "kind": kind, "margin": margin, "unit": unit, "runs": runs}


def test_claims_figure_has_a_row_for_each_claim_with_its_mark_and_numbers():
    opened = "inconclusive at this size"
    ledger = pd.DataFrame(
        [
            claim("A1", "supported", "supported"),
            claim("A2", "contradicted", opened, -0.4, -0.8, -0.002),
            claim("A3", opened, opened, 0.5, np.nan, np.nan, runs=1),
            claim("B1", "supported", "supported", 2.0, 1.0, 3.0, "at most", 5.0, "%"),
            claim("B2", "verified", "verified", 3e-15, np.nan, np.nan, "exact", 1e-10, "relative"),
            claim("B3", "supported", "supported", 0.02, 0.01, 0.03, unit="cosine"),
        ]
    )
    fig = plots.claims_figure(ledger)
    assert text_of(fig) >= {
        "claim A1", "+1.26 (+0.03 to +2.50) points", "−0.400 (−0.800 to −0.002) points", "+0.5 (one pair) points",
        "2.0 (1.0 to 3.0) %, limit 5", "off by 3e-15 at most (5 s)", "1 supported, 1 contradicted, 1 inconclusive",
        "2 supported, 1 verified",
    }  # fmt: skip
    (ax,) = fig.axes
    at = {line.get_marker(): line for line in ax.lines if line.get_transform() == ax.transData and line.get_marker() != "None"}
    drawn = [(line.get_marker(), line.get_xdata()[0]) for line in ax.lines if line.get_markersize() == 3.5]
    assert_allclose([x for _, x in drawn], [1.26, -0.4, 0.5, 3.0, 2.0])  # B1: below its limit is for the claim; B3: hundredths
    assert [marker for marker, _ in drawn] == ["^", "v", "o", "^", "^"]
    assert at["v"].get_markerfacecolor() == "white" and at["^"].get_markerfacecolor() != "white"
