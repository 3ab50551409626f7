"""One style, one function per kind of figure: data in, figure out."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from study.methods import METHODS
from study.writing import whole

COLUMN = 3.4  # inches, the width of a column of the paper
GREY = "#999999"

sns.set_theme(
    context="paper",
    style="ticks",
    font_scale=0.95,
    rc={
        "figure.dpi": 130,
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "lines.linewidth": 1.5,
    },
)


def colour_of(name):
    """The colour that a method has in every figure; grey for what is no method."""
    return METHODS[name].colour if name in METHODS else GREY


def save(fig, folder, name, dpi=300):
    """Write the figure as folder/name.png, for the paper and the README; it stays open for the notebook to show."""
    with whole(Path(folder) / f"{name}.png") as unfinished:
        fig.savefig(unfinished, dpi=dpi, metadata={"Software": None})


def picture_grid(rows, row_labels=None, captions=None, scale=0.5, greys=(None, None)):
    """A grid of images. rows: a list of lists of (H, W) or (1 or 3, H, W) arrays; captions: the same shape, printed under each
    image; greys: the lowest and highest value, for grey images that are to be compared; by default each has its own."""
    columns = max(len(row) for row in rows)
    height = scale * (1.35 if captions else 1.05)
    fig, axes = plt.subplots(len(rows), columns, figsize=(scale * columns + 0.8, height * len(rows)), squeeze=False)
    for i, row in enumerate(rows):
        for j, ax in enumerate(axes[i]):
            ax.set(xticks=[], yticks=[])
            sns.despine(ax=ax, left=True, bottom=True)
            if j < len(row):
                ax.imshow(_as_shown(row[j]), cmap="gray_r", interpolation="nearest", vmin=greys[0], vmax=greys[1])
            if captions and j < len(captions[i]):
                ax.set_xlabel(captions[i][j], fontsize=7, labelpad=2)
        if row_labels:
            axes[i][0].set_ylabel(row_labels[i], rotation=0, ha="right", va="center", fontsize=8)
    return fig


def _as_shown(image):
    """(H, W) of a grey image, (H, W, 3) of one with colours."""
    image = np.asarray(image)
    if image.ndim == 3:
        image = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    return image


def dots(summary, label, color=None, xlabel="test accuracy (%)", zero=False):
    """Means with 95 % intervals, one line per row of a table from study.tables, first row on top.

    label: column that names the rows; color: column of method names that picks the colours; zero: mark a difference of 0.
    """
    fig, ax = plt.subplots(figsize=(COLUMN, 0.5 + 0.22 * len(summary)))
    for y, row in enumerate(summary.to_dict("records")):
        dot(ax, row, y, colour_of(row[color] if color else "SupCon"))
    if zero:
        ax.axvline(0, color=GREY, lw=0.8, zorder=0)
    ax.set_yticks(range(len(summary)), summary[label])
    ax.set_ylim(len(summary) - 0.5, -0.5)
    ax.set_xlabel(xlabel, loc="right")  # centred, it would run over the edge where names are long
    ax.grid(axis="x", alpha=0.3)
    return fig


def dot(ax, row, y, color, marker="o", hollow=False):
    """The mean of row (mean, low, high) with its interval, at height y; without an interval where it is nan."""
    bars = None if np.isnan(row["low"]) else [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
    face = "white" if hollow else color
    ax.errorbar(row["mean"], y, xerr=bars, fmt=marker, ms=4, mfc=face, mew=1, color=color, capsize=2, elinewidth=1.2)


def sweep(summary, x, xlabel, ylabel="test accuracy (%)", by="method", log=False):
    """Mean against x with a 95 % band, a line per value of column `by`, labelled at its right end."""
    fig, ax = plt.subplots(figsize=(COLUMN, 2.3))
    ends = []
    for name, line in summary.groupby(by, sort=False):
        color = colour_of(name)
        ax.plot(line[x], line["mean"], "o-", ms=3, color=color)
        ax.fill_between(line[x], line["low"], line["high"], color=color, alpha=0.2, lw=0)
        ends.append((line["mean"].iloc[-1], line[x].iloc[-1], name, color))
    if log:
        _powers_of_two(ax, sorted(summary[x].unique()))
    if len(ends) > 1:
        label_ends(ax, ends)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3)
    return fig


def label_ends(ax, ends):
    """Names beside the right ends of lines; ends holds (y, x, name, color). Labels that would overlap are moved apart."""
    low, high = ax.get_ylim()
    gap = 0.07 * (high - low)
    previous = -np.inf
    for y, x, name, color in sorted(ends):
        previous = max(y, previous + gap)
        ax.annotate(name, (x, previous), xytext=(5, 0), textcoords="offset points", color=color, va="center", fontsize=8)


def heatmap(matrix, labels, legend, digits=2, **kwargs):
    """A square table of numbers with the same names on both sides; legend says what the numbers are."""
    fig, ax = plt.subplots(figsize=(COLUMN, 0.87 * COLUMN))
    sns.heatmap(
        matrix, xticklabels=labels, yticklabels=labels, annot=len(labels) <= 10, fmt=f".{digits}f", annot_kws={"size": 6},
        cmap="cividis", square=True, cbar_kws={"label": legend}, ax=ax, **kwargs,
    )  # fmt: skip
    return fig


def strips(values, ylabel):
    """Every value of some groups as a dot, and a bar at their median; values: {name: (n,)}, in the methods' colours."""
    fig, ax = plt.subplots(figsize=(COLUMN, 2.2))
    for place, (name, group) in enumerate(values.items()):
        aside = np.linspace(-0.25, 0.25, len(group))[np.random.default_rng(0).permutation(len(group))]  # dots beside each other
        color = colour_of(name)
        ax.plot(place + aside, group, "o", ms=4, color=color, alpha=0.6, mew=0)
        ax.hlines(np.median(group), place - 0.35, place + 0.35, color=color)
    ax.set_xticks(range(len(values)), values)
    ax.set(ylabel=ylabel, xlim=(-0.6, len(values) - 0.4))
    ax.grid(axis="y", alpha=0.3)
    return fig


def class_counts(train_counts, test_counts, classes):
    """Bars of the number of images per class, training and test beside each other."""
    fig, ax = plt.subplots(figsize=(COLUMN, 1.9))
    x = np.arange(len(classes))
    ax.bar(x - 0.2, train_counts, 0.4, color=colour_of("SupCon"), label="training")
    ax.bar(x + 0.2, test_counts, 0.4, color=GREY, label="test")
    ax.set_xticks(x, classes, rotation=45, ha="right")
    ax.set_ylabel("images")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return fig


def scatter(points, xlabel, ylabel, curve=None, log=False):
    """Dots of several groups, with a line for what the formula says. points: {name: (x, y)}; curve: (name, x, y)."""
    fig, ax = plt.subplots(figsize=(COLUMN, 2.5))
    for (name, (x, y)), color, marker in zip(points.items(), [colour_of("SupCon"), colour_of("SCHaNe")], "o^", strict=False):
        ax.plot(x, y, marker, ms=3, color=color, alpha=0.5, mew=0, label=name, rasterized=True)
    if curve:
        name, x, y = curve
        ax.plot(x, y, color="black", lw=1, zorder=1, label=name)
    if log:
        ax.set_yscale("log")
    ax.locator_params(axis="x", nbins=5)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, markerscale=1.5, handletextpad=0.3, columnspacing=1, fontsize=8)
    return fig


def bands(x, lines, xlabel, ylabel):
    """Median and 5 to 95 % range over many items against x (K,). lines: {name: (K, items)}."""
    fig, ax = plt.subplots(figsize=(COLUMN, 2.3))
    for (name, values), color in zip(lines.items(), [colour_of("SCHaNe"), colour_of("SupCon")], strict=False):
        low, middle, high = np.quantile(np.asarray(values), [0.05, 0.5, 0.95], axis=1)
        ax.plot(x, middle, "o-", ms=3, color=color, label=name)
        ax.fill_between(x, low, high, color=color, alpha=0.2, lw=0)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(x, [f"{v:g}" for v in x])
    ax.grid(alpha=0.3)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8)
    return fig


def lines(x, ys, xlabel, ylabel, colors=("SupCon", "SCHaNe"), log=False):
    """A plain line per entry of ys ({name: values}) against x, labelled at its right end, in the colours of `colors`."""
    fig, ax = plt.subplots(figsize=(COLUMN, 2.2))
    ends = []
    for (name, y), color in zip(ys.items(), colors, strict=False):
        shade = colour_of(color)
        ax.plot(x, y, color=shade)
        ends.append((y[-1], x[-1], name, shade))
    if log:
        _powers_of_two(ax, x)
    ax.margins(y=0.12)  # room for labels that are moved apart
    label_ends(ax, ends)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3)
    return fig


def scaling(curves, xlabel, ylabel):
    """Growth on two logarithmic axes, with a mark for each measurement. curves: {name: (x, y, style of the line)}."""
    fig, ax = plt.subplots(figsize=(COLUMN, 3))
    for name, (x, y, style) in curves.items():
        ax.plot(x, y, label=name, **({"marker": "o", "ms": 3} | style))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    sizes = [v for x, _, _ in curves.values() for v in x]
    ticks = [v for k in range(20) if (v := max(sizes) // 4**k) >= min(sizes)]
    ax.set_xticks(ticks, [f"{v:,}" for v in ticks])
    ax.minorticks_off()
    ax.yaxis.set_major_formatter("{x:,g}")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right", bbox_to_anchor=(1.02, 1), ncols=2, fontsize=7.5, columnspacing=1)
    return fig


def _powers_of_two(ax, values):
    ax.set_xscale("log", base=2)
    ax.set_xticks(values, [f"{v:g}" for v in values])
    ax.minorticks_off()
