"""The tables of results in README.md and docs/: python -m study.readme puts them between their markers."""

import pandas as pd

from study.analysis.ledger import tally
from study.paths import ROOT
from study.writing import write_text


def main():
    for page in PAGES:
        path = ROOT / page
        write_text(path, with_results(page, path.read_text(), ROOT / "results"))


def with_results(page, text, results):
    """The page's text with what stands between each pair of markers replaced by a table of the folder results."""
    for name, (file, lines_of) in PAGES[page].items():
        start, end = text.index(f"<!-- {name}:"), text.index(f"<!-- end of {name} -->")
        lines = lines_of(pd.read_csv(results / file))
        text = text[: text.index("\n", start) + 1] + "\n".join(lines) + "\n" + text[end:]
    return text


def claims_table(claims):
    """Lines of Markdown: how many claims of each paper got which verdict, as ledger.tally counts them."""
    counts = tally(claims)
    lines = ["| claims of | " + " | ".join(counts.columns) + " |", "|---" * (1 + len(counts.columns)) + "|"]
    return lines + [f"| {paper} | " + " | ".join(str(n) for n in row) + " |" for paper, *row in counts.itertuples()]


def accuracy_table(table):
    """Lines of Markdown: a row per method, columns as in results/analysis/table.csv for each number of shots."""
    shots = list(dict.fromkeys(table.shots))
    lines = ["| method |" + "".join(f" {n} per class | difference to CE |" for n in shots), "|---" * (1 + 2 * len(shots)) + "|"]
    for method, rows in table.groupby("method", sort=False):
        cells = []
        for row in rows.to_dict("records"):
            cells.append(f"{row['mean']:.1f} % ({row['low']:.1f} to {row['high']:.1f}, n = {row['n']})")
            shown = [f"{round(row[key], 1) + 0.0:+.1f}" for key in ("difference", "difference_low", "difference_high")]  # no -0.0
            difference = "{} ({} to {})".format(*shown)
            cells.append("" if method == "CE" else difference)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


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


# The tables of each page, by the name of their markers: the file that they show, and the function that writes their lines.
PAGES = {
    "README.md": {
        "claims": ("analysis/claims.csv", claims_table),
        "accuracy": ("analysis/table.csv", accuracy_table),
        "cost": ("cost/cost.csv", cost_table),
    },
    "docs/larger.md": {"estimates": ("estimates.csv", estimates_table)},
}

if __name__ == "__main__":
    main()
