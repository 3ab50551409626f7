"""The tables of results in README.md and docs/, and what the verdicts say in words: python -m study.readme puts them between
their markers."""

import pandas as pd

from study.analysis.decisions import EQUIVALENT, NOT_TESTABLE, OPPOSITE, SMALLER, SUPPORTED, UNDECIDED, VERDICTS
from study.analysis.judgement import READ_OUTS
from study.analysis.plots import DATA_SETS, cell_in_words
from study.methods import METHODS
from study.paths import ROOT
from study.writing import write_text

FOLDERS = (".", "colour")  # of results: the laptop's, and those on pictures in colour where they are there


def main():
    for page in PAGES:
        path = ROOT / page
        write_text(path, with_results(page, path.read_text(), ROOT / "results"))


def with_results(page, text, results):
    """The page's text with what stands between each pair of markers replaced by lines on tables of the folder results."""
    for name, (file, lines_of) in PAGES[page].items():
        start, end = text.index(f"<!-- {name}:"), text.index(f"<!-- end of {name} -->")
        lines = lines_of(read(results, file))
        text = text[: text.index("\n", start) + 1] + "\n".join(lines) + "\n" + text[end:]
    return text


def read(results, file):
    """A table of the folder results, and under it the one of the same name of each other data set."""
    paths = [results / folder / file for folder in FOLDERS]
    return pd.concat([pd.read_csv(path, dtype={"labels": str}) for path in paths if path.exists()], ignore_index=True)


def survival(claims):
    """Three lines on the confirmatory claims: which are supported, which do not hold as reported, and how many are open."""
    confirmatory = claims[claims.family == "confirmatory"]
    sets = " and ".join(DATA_SETS.get(name, name) for name in confirmatory.data_set.unique())

    def those(verdict):
        """How many have this verdict, and which."""
        rows = confirmatory[confirmatory.verdict == verdict]
        named = "; ".join(
            f"{row.claim}, {cell_in_words(row.cell)} ({DATA_SETS.get(row.data_set, row.data_set)}, {row.effect:+.1f} points)"
            for row in rows.itertuples()
        )
        return f"{len(rows) or 'none'}" + (f" ({named})" if named else "")

    counts = confirmatory.verdict.value_counts().reindex(VERDICTS, fill_value=0)
    with_gain = confirmatory[confirmatory.reported.notna()]
    below = (with_gain.high < with_gain.reported).sum()
    return [
        f"**Confirmatory claims tested on {sets}: {len(confirmatory)}. Supported: {those(SUPPORTED)}.**",
        f"Smaller than reported: {those(SMALLER)}. Practically no difference: {those(EQUIVALENT)}. The opposite: "
        f"{those(OPPOSITE)}.",
        f"Undecided with so few runs: {counts[UNDECIDED] or 'none'}. Not testable, as cross-entropy does not clear the best "
        f"floor: {counts[NOT_TESTABLE] or 'none'}. The gain that a paper reports lies above our interval in {below} of "
        f"{len(with_gain)} cases.",
    ]


def accuracy_table(accuracy):
    """Lines of Markdown: a row per floor and method, a column per cell, all methods by the linear probe, in percent."""
    shown = accuracy[accuracy.read_out.isin([READ_OUTS["probe_accuracy"], "as it is"])]
    cells = shown[["data_set", "regime", "labels"]].drop_duplicates()
    cells = [(row.data_set, f"{row.regime}/{row.labels}") for row in cells.itertuples()]
    lines = ["| | " + " | ".join(f"{DATA_SETS.get(name, name)}, {cell_in_words(cell)}" for name, cell in cells) + " |"]
    lines += ["|---" * (1 + len(cells)) + "|"]
    names = sorted(shown.method.unique(), key=lambda name: name in METHODS)  # floors first
    of_cell = {(row.data_set, f"{row.regime}/{row.labels}", row.method): row for row in shown.itertuples()}
    for name in names:
        rows = [of_cell.get((*cell, name)) for cell in cells]
        label = name if name in METHODS else f"*floor: {name}*"
        lines.append(f"| {label} | " + " | ".join("" if row is None else _percent(row) for row in rows) + " |")
    return lines


def verdicts_table(claims):
    """Lines of Markdown: a row per confirmatory claim, its effect and verdict on each data set."""
    confirmatory = claims[claims.family == "confirmatory"]
    sets = confirmatory.data_set.unique()
    lines = ["| claim | reported | " + " | ".join(DATA_SETS.get(name, name) for name in sets) + " |"]
    lines += ["|---" * (2 + len(sets)) + "|"]
    for _, rows in confirmatory.groupby("id", sort=False):
        first, of_set = rows.iloc[0], rows.set_index("data_set")
        reported = "" if pd.isna(first.reported) else f"{first.reported:+g}"
        cells = [_effect(of_set.loc[name]) if name in of_set.index else "" for name in sets]
        lines.append(f"| {first.claim}, {cell_in_words(first.cell, short=True)} | {reported} | {' | '.join(cells)} |")
    return lines


def _percent(row):
    bounds = "" if pd.isna(row.low) else f" ({row.low:.1f} to {row.high:.1f})"
    return f"{row.mean:.1f}{bounds}"


def _effect(row):
    mean, low, high = (f"{round(value, 1) + 0.0:+.1f}" for value in (row.effect, row.low, row.high))  # no -0.0
    return f"{row.verdict}: {mean} ({low} to {high})"


def cost_table(cost):
    """Lines of Markdown: a row per implementation of SupCon, its time at the largest batch that all were run with, and its
    memory at the largest batch that it was run with."""
    measured = cost[(cost.loss == "SupCon") & cost.value.notna()]
    seconds = measured[measured.what == "seconds"]
    implementations = seconds.groupby("n").implementation.nunique()
    n = implementations.index[implementations == implementations.max()].max()
    lines = [f"| SupCon | time at N = {n:,} | largest N run | memory there |", "|---|---|---|---|"]
    for row in seconds[seconds.n == n].sort_values("value").itertuples():
        held = measured[(measured.what == "bytes") & (measured.implementation == row.implementation)]
        last = held.loc[held.n.idxmax()]
        lines.append(f"| {row.implementation} | {row.value:.2f} s | {last.n:,} | {last.value / 1e9:.1f} GB |")
    return lines


def estimates_table(estimates):
    """Lines of Markdown: a row per part of a profile, as study.benchmarks.estimate has them."""
    lines = ["| part | encoder | views of images, millions | GPU-hours | images a step | memory for them |", "|---" * 6 + "|"]
    for row in estimates.itertuples():
        encoder = f"{row.encoder.partition('.')[0]}, {row.pixels} pixels"
        sizes = f"{row.million_views:,.0f} | {float(f'{row.gpu_hours:.2g}'):g} | {row.batch:,} | {row.gigabytes:.0f} GB"
        lines.append(f"| {row.part} | {encoder} | {sizes} |")
    return lines


# What each page has of results, by the name of the markers: the file that is shown, and the function that writes the lines.
PAGES = {
    "README.md": {
        "survival": ("claims.csv", survival),
        "accuracy": ("accuracy.csv", accuracy_table),
        "verdicts": ("claims.csv", verdicts_table),
        "cost": ("cost/cost.csv", cost_table),
    },
    "docs/larger.md": {"estimates": ("estimates.csv", estimates_table)},
}

if __name__ == "__main__":
    main()
