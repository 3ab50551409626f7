"""Figures show the numbers of the tables they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from made_up import METHODS, METRICS

from study import tables
from study.analysis import comparison, plots

N = len(METHODS)


def text_of(fig):
    fig.canvas.draw()
    return {text.get_text() for text in fig.findobj(plt.Text)}


def differences(data_sets=("digits",), cells=("fine-tuning/20", "scratch/full")):
    rows = [
        {"data_set": data_set, "cell": cell, "method": method, "effect": k + 1.0, "low": k - 0.5, "high": k + 2.5}
        for data_set in data_sets
        for cell in cells
        for k, method in enumerate(list(METHODS)[1:])
    ]
    return pd.DataFrame(rows).assign(ce=80.0, floor="pixels, SVM", floor_accuracy=79.0)


def test_headline_figure_has_a_panel_per_cell_with_every_method_at_its_effect():
    fig = plots.headline_figure(differences(), margin=1.0)
    assert [len(ax.containers) for ax in fig.axes] == [N - 1, N - 1]
    drawn = [bars[0].get_xdata()[0] for bars in fig.axes[0].containers]
    assert drawn == [k + 1.0 for k in range(N - 1)]
    assert {"SupCon", "digits", "fine-tuning, 20 per class\nCE 80.0 %, best floor 79.0 %", " floor"} <= text_of(fig)
    assert [bars[0].get_markerfacecolor() == "white" for bars in fig.axes[0].containers] == [True] + [False] * (N - 2)


def test_headline_figure_has_a_row_per_data_set_and_leaves_a_missing_cell_empty():
    table = pd.concat([differences(), differences(["cifar-10"], ["scratch/full"])])
    fig = plots.headline_figure(table, margin=1.0)
    assert [ax.get_visible() for ax in fig.axes] == [True, True, True, False]
    assert {"digits", "CIFAR-10"} <= text_of(fig)


def test_a_floor_that_is_far_below_is_not_drawn():
    assert " floor" not in text_of(plots.headline_figure(differences().assign(floor_accuracy=40.0), margin=1.0))


def test_a_method_that_the_registry_lacks_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="SINCERE cannot be drawn: study.methods.METHODS has CE, .*GenSCL"):
        plots.headline_figure(differences().replace({"method": {"CLCE": "SINCERE"}}), margin=1.0)


def a_claim(name, family, verdict, effect=0.5, reported=np.nan, data_set="digits", cell="scratch/full"):
    row = {"id": name, "claim": f"claim {name}", "data_set": data_set, "cell": cell, "family": family, "verdict": verdict}
    return row | {"effect": effect, "low": effect - 1, "high": effect + 1, "margin": 1.0, "reported": reported}


def test_registered_figure_marks_each_claim_by_its_verdict_confirmatory_first():
    rows = [
        a_claim("b", "exploratory", "opposite", -2.0, reported=30.0),
        a_claim("a", "confirmatory", "supported", 2.0, reported=1.5, cell="fine-tuning/20"),
        a_claim("a", "confirmatory", "undecided", 0.5, data_set="cifar-10", cell="fine-tuning/20"),
    ]
    fig = plots.registered_figure(pd.DataFrame(rows))
    first, second = fig.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["claim a, 20 per class", "claim b, from scratch"]
    marks = [(line.get_marker(), line.get_xdata()[0]) for line in first.lines if line.get_marker() not in ("None", "")]
    right = first.get_xlim()[1]
    assert marks == [("^", 2.0), ("x", 1.5), ("v", -2.0), (">", right)]  # a reported gain outside is an arrow
    assert [line.get_marker() for line in second.lines if line.get_marker() != "None"] == ["o"]
    assert {"CIFAR-10", "supported", "opposite", "undecided", "gain that the paper reports"} <= text_of(fig)
    assert fig.get_figwidth() * 150 <= 1000  # pixels


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


def test_a_method_without_runs_at_a_number_of_shots_leaves_its_place_there_empty(runs):
    summary = comparison.summarise_each(runs, METRICS[:2])
    less = summary[(summary.method != "SupCon") | (summary.shots == summary.shots.min())]
    fig = plots.readout_figure(less, dict(zip(METRICS[:2], "ab", strict=True)))
    lines = [[np.asarray(box.lines[0].get_ydata(), float) for box in ax.containers] for ax in fig.axes]
    assert np.isfinite(lines[0]).all() and [np.isnan(line).all() for line in lines[1]].count(True) == 1


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
    table = comparison.summarise_each(runs[runs.seed == 0], METRICS[1:])
    assert table.low.isna().all()
    fig = plots.geometry_figure(table, {metric: metric for metric in METRICS[1:]})
    assert all(not bars.has_xerr for ax in fig.axes for bars in ax.containers)


def test_axes_of_percentages_end_at_0_and_100(runs):
    table = comparison.summarise_each(runs, METRICS[:2]).assign(low=-500.0, high=500.0)
    fig = plots.readout_figure(table, dict(zip(METRICS[:2], "ab", strict=True)))
    assert [ax.get_ylim() for ax in fig.axes] == [(0, 100)] * 2
