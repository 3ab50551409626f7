"""What 12_analysis draws: the results of all methods side by side, and the ledger of claims."""

import matplotlib.patheffects as patheffects
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from study.analysis.comparison import label_point
from study.analysis.ledger import CONTRADICTED, INCONCLUSIVE, REFUTED, SUPPORTED, VERIFIED
from study.figures import COLUMN, GREY, dot
from study.methods import METHODS
from study.tables import in_digits

MARKERS = ["o", "D", "s", "^"]  # one per number of shots
# How claims_figure marks a verdict: by shape and colour.
VERDICT_MARKS = {
    SUPPORTED: {"marker": "^", "color": "#0072b2"},
    CONTRADICTED: {"marker": "v", "color": "#d55e00"},
    INCONCLUSIVE: {"marker": "o", "color": GREY, "mfc": "white"},
    VERIFIED: {"marker": "P", "color": "#009e73"},
    REFUTED: {"marker": "X", "color": "#d55e00"},
}
# Paul Tol's muted colours and a dark grey: ten classes that colour-blind readers can tell apart, with labels on them.
CLASS_COLORS = ["#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#555555"]


def headline_figure(differences, margin):
    """A panel per cell: each method's difference to tuned cross-entropy, which stands at 0; a grey band for what is too small to
    matter, and a dotted line for the best floor. differences: from judgement.differences_table; margin: points."""
    cells, methods = differences.cell.unique(), [name for name in METHODS if name in set(differences.method)]
    fig, axes = plt.subplots(1, len(cells), figsize=(2 * COLUMN, 2.4), sharey=True, sharex=True, squeeze=False)
    for ax, cell in zip(axes[0], cells, strict=True):
        rows = differences[differences.cell == cell].set_index("method")
        ax.axvspan(-margin, margin, color=GREY, alpha=0.15, lw=0)
        ax.axvline(0, color=METHODS["CE"].colour, lw=1)
        ax.axvline(rows.floor_accuracy.iloc[0] - rows.ce.iloc[0], color=GREY, ls=":", lw=1.2)
        for y, method in enumerate(methods):
            if method in rows.index:
                dot(ax, rows.loc[method].rename({"effect": "mean"}), y, METHODS[method].colour)
        regime, labels = cell.split("/")
        title = "from scratch, all images" if labels == "full" else f"{regime}, {labels} per class"
        ax.set_title(f"{title}\nCE {rows.ce.iloc[0]:.1f} %, floor {rows.floor_accuracy.iloc[0]:.1f} %", fontsize=8)
        ax.set_xlabel("points above cross-entropy")
    axes[0, 0].set_yticks(range(len(methods)), methods)
    axes[0, 0].invert_yaxis()
    return fig


def results_figure(table):
    """Left, accuracy by method and number of shots; right, the paired differences to CE. table: from results_table."""
    differences = table.drop(columns=["mean", "low", "high"])
    differences = differences.rename(columns={"difference": "mean", "difference_low": "low", "difference_high": "high"})
    fig, left, right = _beside_ce(table, differences, "test accuracy (%)", "points above CE", at=0)
    _stay_in_percent(left.xaxis)
    return fig


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
            line = summary[(summary.shots == n) & (summary.method == method)].set_index("metric").loc[list(labels)]
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


def claims_figure(ledger):
    """The ledger on a page: a row per claim under its paper, with a mark for the verdict, hollow where it is open or does not
    survive Holm, and the effect with its 95 % interval: drawn, to the right of the line what the claim says, and in digits.

    ledger: from study.analysis.ledger.ledger.
    """
    heading = 1.3  # in rows
    height = len(ledger) + heading * ledger.paper.nunique()
    fig = plt.figure(figsize=(6.9, 0.15 * height + 0.85), dpi=90)  # a page of a notebook; files have their own resolution
    fig.set_layout_engine("none")  # every text has its place
    bottom = 0.55 / fig.get_figheight()
    ax = fig.add_axes((0.485, bottom, 0.25, 1 - bottom - 0.25 / fig.get_figheight()))
    ax.set(xlim=(-85, 85), ylim=(height, 0))
    ax.set_xscale("symlog", linthresh=1, linscale=0.8)
    ax.axvline(0, color=GREY, lw=0.8, zorder=0)
    y = 0.0
    for paper, rows in ledger.groupby("paper", sort=False):
        _text_at(ax, 0.005, y + 0.8, paper, weight="bold", fontsize=7.5)
        _text_at(ax, 0.995, y + 0.8, _counts_in_words(rows.verdict), ha="right")
        for k, row in enumerate(rows.to_dict("records")):
            _claim_row(ax, row, y + heading + k + 0.5)
        y += heading + len(rows)
    ticks = {-10: "\u221210", -1: "\u22121", 0: "0", 1: "1", 10: "10"}
    ax.set_xticks(list(ticks), ticks.values(), fontsize=7)
    ax.tick_params(axis="y", left=False, labelleft=False)
    ax.spines["left"].set_visible(False)
    sides = "\u2190 against the claim        for the claim \u2192"
    ax.set_xlabel(f"{sides}\npoints, %, or hundredths of other units", fontsize=7, linespacing=1.4)
    marks = {verdict: mark for verdict, mark in VERDICT_MARKS.items() if verdict in set(ledger.verdict)}
    handles = [Line2D([], [], lw=0, ms=5, label=verdict, **mark) for verdict, mark in marks.items()]
    handles.append(Line2D([], [], lw=0, label="hollow: open, or not once all claims are taken together (Holm)"))
    fig.legend(handles=handles, loc="upper center", ncols=len(handles), fontsize=6.8, handletextpad=0.1, columnspacing=0.8)
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


def _claim_row(ax, row, y):
    """A row of claims_figure: mark, id, claim, interval, digits."""
    mark = VERDICT_MARKS[row["verdict"]]
    hollow = row["after_holm"] == INCONCLUSIVE
    ax.plot([0, 1], [y + 0.5, y + 0.5], transform=_across(ax), color="#e6e6e6", lw=0.4, clip_on=False, zorder=-1)
    mark = mark | {"mfc": "white" if hollow else mark["color"]}
    ax.plot([0.015], [y], transform=_across(ax), ms=5, lw=0, clip_on=False, **mark)
    _text_at(ax, 0.03, y, row["id"])
    _text_at(ax, 0.075, y, row["claim"])
    _text_at(ax, 0.74, y, _in_digits(row))
    if row["kind"] != "exact":
        scale = 1 if row["unit"].startswith(("points", "%")) else 100
        sign = -1 if row["kind"] == "at most" else 1
        low, mean, high = (sign * scale * (row[name] - row["margin"]) for name in ("low", "effect", "high"))
        ax.plot([low, high], [y, y], color=mark["color"], lw=1.4, solid_capstyle="butt")
        ax.plot(np.clip(mean, -55, 55), y, ms=3.5, mew=0.8, **mark)


def _in_digits(row):
    """The effect of a claim: "+1.2 (-0.3 to +2.7) points"."""
    if row["kind"] == "exact":
        return f"off by {row['effect']:.0e} at most ({row['runs']} {row['over']})"
    unit = row["unit"]
    digits = None if unit.startswith(("points", "%")) else 3
    plus, limit = ("+", "") if row["kind"] == "effect" else ("", f", limit {row['margin']:g}")
    mean, low, high = in_digits([row[name] for name in ("effect", "low", "high")], digits, plus)
    bounds = f"({low} to {high})" if row["runs"] > 1 else "(one pair)"
    return f"{mean} {bounds} {unit}{limit}".replace("-", "\u2212")


def _counts_in_words(verdicts):
    """ "4 supported, 1 contradicted, 8 inconclusive"."""
    counts = verdicts.value_counts()
    return ", ".join(f"{counts[verdict]} {verdict.split()[0]}" for verdict in VERDICT_MARKS if verdict in counts)


def _across(ax):
    """The figure's width by the rows of ax."""
    return blended_transform_factory(ax.figure.transFigure, ax.transData)


def _text_at(ax, x, y, text, **style):
    ax.text(x, y, text, transform=_across(ax), va="center", **{"fontsize": 6.6} | style)
