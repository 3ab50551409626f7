"""What 12_analysis draws: how all methods compare in every cell, the verdicts, and what else tells methods apart."""

import matplotlib.patheffects as patheffects
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from study.analysis import decisions
from study.analysis.comparison import label_point
from study.figures import COLUMN, GREY, dot
from study.methods import METHODS

MARKERS = ["o", "D", "s", "^"]  # one per number of shots
VERDICT_MARKS = {  # a shape and a colour of Okabe and Ito's for each verdict
    decisions.SUPPORTED: {"marker": "^", "color": "#0072b2"},
    decisions.SMALLER: {"marker": "D", "color": "#56b4e9"},
    decisions.EQUIVALENT: {"marker": "s", "color": "#009e73"},
    decisions.OPPOSITE: {"marker": "v", "color": "#d55e00"},
    decisions.UNDECIDED: {"marker": "o", "color": GREY},
    decisions.NOT_TESTABLE: {"marker": "x", "color": GREY},
}
DATA_SETS = {"fashion-mnist": "Fashion-MNIST", "cifar-10": "CIFAR-10"}  # as they are printed, where not as they are called
# Paul Tol's muted colours and a dark grey: ten classes that colour-blind readers can tell apart, with labels on them.
CLASS_COLORS = ["#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#555555"]


def headline_figure(differences, margin):
    """A row of panels per data set, a panel per cell: each method's difference to tuned cross-entropy, which stands at 0, hollow
    where the interval holds 0; a grey band for what is too small to matter; a dotted line for the best floor where it is near.

    differences: from judgement.differences_table, of one or several data sets; margin: points.
    """
    cells, methods = differences[["data_set", "cell"]].drop_duplicates(), _order(differences.method)
    columns = cells.groupby("data_set").size().max()
    size = (2 * COLUMN, 0.6 + 1.5 * cells.data_set.nunique())
    fig, axes = plt.subplots(cells.data_set.nunique(), columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    limits = _limits(differences, margin)
    for row, (data_set, of_set) in zip(axes, differences.groupby("data_set", sort=False), strict=True):
        of_cells = of_set.groupby("cell", sort=False)
        for ax, (cell, rows) in zip(row, of_cells, strict=False):
            _cell_panel(ax, rows.set_index("method"), methods, margin, limits)
            ax.set_title(f"{cell_in_words(cell)}\n{_beside(rows)}", fontsize=8)
        row[0].set_ylabel(DATA_SETS.get(data_set, data_set), weight="bold", fontsize=8)
        for ax in row[len(of_cells) :]:
            ax.set_visible(False)
    axes[0, 0].set_yticks(range(len(methods)), methods)
    axes[0, 0].set(xlim=limits, ylim=(len(methods) - 0.5, -0.5))
    fig.supxlabel(
        f"points above tuned cross-entropy, linear probe for all, 95 % intervals (hollow: holds 0; grey: within {margin:g})",
        fontsize=7.5,
    )
    return fig


def registered_figure(claims):
    """A line for each claim, a panel for each data set: its effect with the interval, in the shape and colour of its verdict; a
    grey bar for the smallest effect of interest, and a cross at the gain that the paper reports, an arrow where that is further.

    claims: from judgement.claims_table, of one or several data sets.
    """
    claims = claims.sort_values("family", kind="stable")
    listed = claims.drop_duplicates("id").reset_index(drop=True)
    sets, limits = claims.data_set.unique(), _limits(claims, 1.0)
    fig, axes = plt.subplots(1, len(sets), figsize=(6.6, 0.9 + 0.19 * len(listed)), sharex=True, sharey=True, squeeze=False)
    for ax, data_set in zip(axes[0], sets, strict=True):
        rows = claims[claims.data_set == data_set].set_index("id")
        for y, name in enumerate(listed.id):
            if name in rows.index:
                _claim_line(ax, rows.loc[name], y, limits)
        ax.axvline(0, color=METHODS["CE"].colour, lw=1, zorder=0)
        ax.axhline((listed.family == "confirmatory").sum() - 0.5, color=GREY, lw=0.8, ls="--")
        ax.set_title(DATA_SETS.get(data_set, data_set), fontsize=8)
    names = [f"{row.claim}, {cell_in_words(row.cell, short=True)}" for row in listed.itertuples()]
    axes[0, 0].set_yticks(range(len(listed)), names, fontsize=6.5)
    axes[0, 0].set(xlim=limits, ylim=(len(listed) - 0.5, -0.5))
    fig.supxlabel("effect in points, with 95 % interval (above the dashed line: confirmatory)", fontsize=7.5)
    marks = {verdict: mark for verdict, mark in VERDICT_MARKS.items() if verdict in set(claims.verdict)}
    handles = [Line2D([], [], ls="", ms=4.5, label=name, **mark) for name, mark in marks.items()]
    handles.append(Line2D([], [], color="black", marker="x", ls="", ms=4.5, label="gain that the paper reports"))
    fig.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=7, handletextpad=0.1)
    return fig


def cell_in_words(cell, short=False):
    """ "fine-tuning/20" as "fine-tuning, 20 per class", or "20 per class" for short."""
    regime, labels = cell.split("/")
    if labels == "full":
        return "from scratch"
    return f"{labels} per class" if short else f"{regime}, {labels} per class"


def curves_figure(summary):
    """Relative loss above, validation accuracy below, a column per number of shots. summary: from curve_summary."""
    shots = sorted(summary.shots.unique())
    labels = {"relative_loss": "relative loss", "validation_accuracy": "validation\naccuracy (%)"}
    fig, axes = plt.subplots(2, len(shots), figsize=(COLUMN, 3), sharex="col", sharey="row", squeeze=False)
    for row, (metric, label) in zip(axes, labels.items(), strict=True):
        for ax, n in zip(row, shots, strict=True):
            lines = summary[(summary.metric == metric) & (summary.shots == n)]
            for method, line in lines.groupby("method", sort=False):
                ax.plot(line.epoch, line["mean"], "o-", ms=2, lw=1.2, color=METHODS[method].colour)
                ax.fill_between(line.epoch, line.low, line.high, color=METHODS[method].colour, alpha=0.15, lw=0)
            ax.grid(alpha=0.3)
        row[0].set_ylabel(label)
    _stay_in_percent(axes[1, 0].yaxis)
    for ax, n in zip(axes[0], shots, strict=True):
        ax.set_title(f"{n} per class", fontsize=8)
    for ax in axes[1]:
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _method_legend(fig, _order(summary.method))
    return fig


def maps_figure(points, labels, classes):
    """A panel per method, classes coloured and numbered where they are purest; the key fills the last cell.

    points: {method: (N, 2)}; labels (N,).
    """
    columns = 3
    fig, axes = plt.subplots(-(-(len(points) + 1) // columns), columns, figsize=(COLUMN, 2.5), squeeze=False)
    cells = axes.ravel()
    colors = [CLASS_COLORS[c % len(CLASS_COLORS)] for c in range(len(classes))]
    for ax in cells:
        ax.set(xticks=[], yticks=[])
        sns.despine(ax=ax, left=True, bottom=True)
    for ax, (method, xy) in zip(cells, points.items(), strict=False):
        ax.scatter(*xy.T, s=1.5, c=[colors[c] for c in labels], lw=0, alpha=0.7, rasterized=True)
        for c in np.unique(labels):
            text = ax.text(*label_point(xy, labels, c), str(c), fontsize=7, weight="bold", ha="center", va="center")
            text.set_path_effects([patheffects.withStroke(linewidth=1.8, foreground="white")])
        ax.set_title(method, fontsize=8, color=METHODS[method].colour)
    for c, name in enumerate(classes):
        x, y = 0.6 * (c // 5), 0.92 - 0.2 * (c % 5)
        cells[-1].plot(x - 0.06, y, "o", ms=4, color=colors[c], clip_on=False)
        cells[-1].text(x, y, name if name == str(c) else f"{c} {name}", fontsize=6.5, va="center")
    cells[-1].set(xlim=(0, 1), ylim=(0, 1))
    return fig


def geometry_figure(summary, labels):
    """A panel per metric of `labels` ({metric: axis label}), a row per method. summary: from summarise_each."""
    fig, axes = plt.subplots(2, 2, figsize=(COLUMN, 3.6), sharey=True)
    methods, shots = _order(summary.method), sorted(summary.shots.unique())
    for ax, (metric, label) in zip(axes.ravel(), labels.items(), strict=True):
        _method_dots(ax, summary[summary.metric == metric], methods, shots)
        ax.set_xlabel(label, fontsize=8)
    _shots_legend(fig, shots)
    return fig


def confusions_figure(table):
    """A row per pair of classes, a dot per method. table: from confused_pairs."""
    pairs, methods = table.pair.unique().tolist(), _order(table.method)
    fig, ax = plt.subplots(figsize=(COLUMN, 0.9 + 0.42 * len(pairs)))
    for row in table.to_dict("records"):
        y = pairs.index(row["pair"]) + 0.13 * (methods.index(row["method"]) - (len(methods) - 1) / 2)
        dot(ax, row, y, METHODS[row["method"]].colour, "o")
    for y in range(1, len(pairs), 2):
        ax.axhspan(y - 0.5, y + 0.5, color="#f2f2f2", lw=0, zorder=0)
    ax.set_yticks(range(len(pairs)), pairs)
    ax.set_ylim(len(pairs) - 0.5, -0.5)
    _stay_in_percent(ax.xaxis)
    ax.set_xlim(left=0)
    ax.set_xlabel("images of the two confused (%)")
    ax.grid(axis="x", alpha=0.3)
    _method_legend(fig, methods)
    return fig


def readout_figure(summary, labels):
    """Accuracy by read-out, a line per method and a panel per number of shots; labels: {metric: name}."""
    shots, methods = sorted(summary.shots.unique()), _order(summary.method)
    fig, axes = plt.subplots(1, len(shots), figsize=(COLUMN, 2.4), squeeze=False)
    for ax, n in zip(axes[0], shots, strict=True):
        for i, method in enumerate(methods):
            line = summary[(summary.shots == n) & (summary.method == method)].set_index("metric").reindex(list(labels))
            x = np.arange(len(labels)) + 0.1 * (i - (len(methods) - 1) / 2)
            bars = [line["mean"] - line.low, line.high - line["mean"]]
            ax.errorbar(x, line["mean"], yerr=bars, fmt="o-", ms=3, lw=0.9, capsize=1.5, color=METHODS[method].colour)
        ax.set_xticks(range(len(labels)), labels.values(), rotation=25, ha="right")
        ax.set_title(f"{n} per class", fontsize=8)
        _stay_in_percent(ax.yaxis)
        ax.grid(axis="y", alpha=0.3)
    axes[0, 0].set_ylabel("test accuracy (%)")
    _method_legend(fig, methods)
    return fig


def time_figure(summary, ratios):
    """Left, milliseconds per step; right, the ratio to CE. Tables as from summarise and time_ratios."""
    fig, left, _ = _beside_ce(summary, ratios, "time per step (ms)", "ratio to CE", at=1)
    left.set_xlim(left=0)
    return fig


def _order(methods):
    """The methods among `methods`, in the registry's order. Raises ValueError for one that the registry does not have."""
    if unknown := set(methods) - METHODS.keys():
        raise ValueError(f"{', '.join(sorted(unknown))} cannot be drawn: study.methods.METHODS has {', '.join(METHODS)}.")
    return [method for method in METHODS if method in set(methods)]


def _method_dots(ax, summary, methods, shots):
    """Dots with intervals, a line per method and, within it, one per number of shots (the first filled)."""
    for row in summary.to_dict("records"):
        k = shots.index(row["shots"])
        y = methods.index(row["method"]) + 0.28 * (k - (len(shots) - 1) / 2)
        dot(ax, row, y, METHODS[row["method"]].colour, MARKERS[k % len(MARKERS)], hollow=k > 0)
    ax.set_yticks(range(len(methods)), methods)
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.grid(axis="x", alpha=0.3)


def _beside_ce(values, compared, values_label, compared_label, at):
    """A row per method in two panels: left its values, right, but for CE, how they compare with CE's, a line marking CE."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(COLUMN, 2.4), sharey=True)
    methods, shots = _order(values.method), sorted(values.shots.unique())
    _method_dots(left, values, methods, shots)
    _method_dots(right, compared[compared.method != "CE"], methods, shots)
    right.axvline(at, color=METHODS["CE"].colour, lw=0.8, zorder=0)
    left.set_xlabel(values_label)
    right.set_xlabel(compared_label)
    _shots_legend(fig, shots)
    return fig, left, right


def _stay_in_percent(axis):
    """Let an axis of percentages end at 0 and 100: intervals of two or three runs may not."""
    low, high = axis.get_view_interval()
    axis.axes.set(**{f"{axis.axis_name}lim": (max(low, 0), min(high, 100))})


def _shots_legend(fig, shots):
    handles = [
        Line2D(
            [], [], color=GREY, marker=MARKERS[k % len(MARKERS)], mfc="white" if k else GREY, ms=4, lw=0, label=f"{n} per class"
        )
        for k, n in enumerate(shots)
    ]
    fig.legend(handles=handles, loc="outside upper center", ncols=len(shots), fontsize=8)


def _method_legend(fig, methods):
    handles = [Line2D([], [], color=METHODS[method].colour, marker="o", ms=3, label=method) for method in methods]
    fig.legend(handles=handles, loc="outside upper center", ncols=len(methods), fontsize=7, handlelength=1, columnspacing=1)


def _limits(table, margin):
    """(left, right) of an axis that holds the intervals of a table, and twice the margin on both sides."""
    low, high = min(table.low.min(), -2 * margin), max(table.high.max(), 2 * margin)
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def _cell_panel(ax, rows, methods, margin, limits):
    """A panel of headline_figure; rows by method."""
    first = rows.iloc[0]
    ax.axvspan(-margin, margin, color=GREY, alpha=0.18, lw=0)
    ax.axvline(0, color=METHODS["CE"].colour, lw=1, zorder=0)
    if limits[0] < (floor := first.floor_accuracy - first.ce) < limits[1]:
        ax.axvline(floor, color=GREY, ls=":", lw=1.2)
        ax.text(floor, len(methods) - 0.55, " floor", color=GREY, fontsize=7)
    for method in rows.index:
        row = rows.loc[method].rename({"effect": "mean"})
        dot(ax, row, methods.index(method), METHODS[method].colour, hollow=row.low <= 0 <= row.high)
    ax.tick_params(labelsize=8)


def _beside(rows):
    return f"CE {rows.ce.iloc[0]:.1f} %, best floor {rows.floor_accuracy.iloc[0]:.1f} %"


def _claim_line(ax, row, y, limits):
    """A line of registered_figure."""
    mark = VERDICT_MARKS[row.verdict]
    ax.barh(y, 2 * row.margin, left=-row.margin, height=0.8, color=GREY, alpha=0.18, lw=0)
    ax.plot([row.low, row.high], [y, y], color=mark["color"], lw=1.3, solid_capstyle="butt")
    ax.plot(row.effect, y, ms=4.5, ls="", **mark)
    if not pd.isna(row.reported):
        inside = row.reported < limits[1]
        ax.plot(row.reported if inside else limits[1], y, "x" if inside else ">", color="black", ms=4, clip_on=False)
