import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from study import figures
from study.methods import METHODS


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_what_is_no_method_is_grey():
    assert figures.colour_of("ImageNet weights") == figures.GREY != figures.colour_of("CLCE") == METHODS["CLCE"].colour


@pytest.fixture
def summary():
    rows = [
        ["CE", 1, 70.0, 69.0, 71.0],
        ["CE", 2, 72.0, 70.0, 74.0],
        ["CLCE", 1, 73.0, 72.0, 74.0],
        ["CLCE", 2, 72.1, 70.5, 73.7],
    ]
    return pd.DataFrame(rows, columns=["method", "x", "mean", "low", "high"])


def test_dots_shows_every_mean_with_its_interval_in_its_methods_colour(summary):
    (ax,) = figures.dots(summary, "method", color="method").axes
    for container, row in zip(ax.containers, summary.itertuples(), strict=True):
        line, _, (bar,) = container.lines
        assert line.get_xdata()[0] == row.mean and line.get_color() == METHODS[row.method].colour
        assert np.allclose(bar.get_segments()[0][:, 0], [row.low, row.high])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(summary.method)
    assert ax.yaxis_inverted() and "(%)" in ax.get_xlabel()


def test_sweep_draws_a_line_and_its_band_for_each_method_and_names_it(summary):
    (ax,) = figures.sweep(summary, "x", "batch size").axes
    assert [list(line.get_ydata()) for line in ax.lines] == [[70.0, 72.0], [73.0, 72.1]]
    assert [band.get_paths()[0].get_extents().y1 for band in ax.collections] == [74.0, 74.0]
    assert {text.get_text() for text in ax.texts} == {"CE", "CLCE"}


def test_labels_at_the_ends_of_lines_do_not_overlap(summary):
    (ax,) = figures.sweep(summary, "x", "batch size").axes
    heights = sorted(text.xy[1] for text in ax.texts)  # the lines end 0.1 apart on an axis of several points
    low, high = ax.get_ylim()
    assert heights[1] - heights[0] > 0.05 * (high - low)


def test_a_log_sweep_marks_the_values_that_were_run(summary):
    (ax,) = figures.sweep(summary.assign(x=[32, 2048, 32, 2048]), "x", "batch size", log=True).axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["32", "2048"]


def test_scaling_draws_each_line_on_logarithmic_axes_and_names_it():
    curves = {"dense": ([256, 512], [1, 4], {"color": "black"}), "ours": ([256, 512, 1024], [1, 2, 4], {"marker": ""})}
    (ax,) = figures.scaling(curves, "N", "MB").axes
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert {line.get_label(): list(line.get_ydata()) for line in ax.lines} == {name: y for name, (_, y, _) in curves.items()}
    assert {tick.get_text() for tick in ax.get_xticklabels()} == {"256", "1,024"}


def test_picture_grid_shows_each_picture_where_it_belongs():
    pictures = [[np.full((2, 2), 3 * i + j) for j in range(3)] for i in range(2)]
    fig = figures.picture_grid(pictures, ["first", "second"], [["a", "b", "c"], ["d", "e", "f"]])
    shown = [ax.images[0].get_array()[0, 0] for ax in fig.axes]
    assert shown == list(range(6)) and [ax.get_xlabel() for ax in fig.axes] == list("abcdef")
    assert [fig.axes[0].get_ylabel(), fig.axes[3].get_ylabel()] == ["first", "second"]


def test_bands_are_medians_and_ranges_over_items():
    (ax,) = figures.bands([0, 1], {"weights": np.stack([np.arange(101), np.arange(101) * 2])}, "beta", "share").axes
    assert list(ax.lines[0].get_ydata()) == [50, 100]
    assert ax.collections[0].get_paths()[0].get_extents().y1 == 190


def test_heatmap_and_class_counts_name_their_classes():
    assert [tick.get_text() for tick in figures.heatmap(np.eye(2), ["a", "b"], "cosine").axes[0].get_xticklabels()] == ["a", "b"]
    (ax,) = figures.class_counts([3, 4], [1, 2], ["a", "b"]).axes
    assert [bar.get_height() for bar in ax.patches] == [3, 4, 1, 2]


def test_strips_show_every_value_and_the_median():
    (ax,) = figures.strips({"CE": [1.0, 2.0, 9.0], "SupCon": [3.0, 3.0, 4.0, 5.0]}, "accuracy (%)").axes
    assert [sorted(line.get_ydata()) for line in ax.lines] == [[1, 2, 9], [3, 3, 4, 5]]
    assert [bar.get_segments()[0][0, 1] for bar in ax.collections] == [2, 3.5]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["CE", "SupCon"]


def test_the_same_figure_is_saved_as_the_same_bytes(summary, tmp_path):
    for name in ("one", "two"):
        figures.save(figures.dots(summary, "method"), tmp_path, name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_lines_are_named_at_their_ends():
    fig = figures.lines([1, 2, 4], {"rising": [0, 1, 2], "falling": [2, 1, 0]}, "x", "y", log=True)
    assert {text.get_text() for text in fig.axes[0].texts} == {"rising", "falling"}
