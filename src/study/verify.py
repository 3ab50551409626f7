"""Fresh results against those in Git: does another machine come to the same? Rounding moves a mean within its interval and is no
matter; a loss that is wrong moves it out of there. `make verify` after `make repro`."""

import io
import subprocess
from dataclasses import dataclass

import numpy as np
import pandas as pd

from study.paths import ROOT
from study.writing import write_text

REPORT = ROOT / "build" / "verify.md"
WITHOUT_INTERVAL = 0.5  # points that a single run may move by, where there is no interval to judge it by
CLOSE = 1e-3  # relative: the last digits that tables print


@dataclass(frozen=True)
class Table:
    """A table of results: the columns that say which row it is, and that of the mean whose interval is in low and high."""

    names: tuple
    mean: str


TABLES = {
    "accuracy.csv": Table(("data_set", "regime", "labels", "method", "read_out"), "mean"),
    "claims.csv": Table(("data_set", "id"), "effect"),
    "analysis/ledger.csv": Table(("id",), "effect"),
}


def verify(revision="HEAD"):
    """Compare results/ with what Git holds of it, print how each table fares and write build/verify.md. Returns 1 if a row does
    not agree, else 0."""
    compared = {file: compare(_of_revision(file, revision), _fresh(file), table) for file, table in TABLES.items()}
    write_text(REPORT, report(compared, revision))
    for file, rows in compared.items():
        print(f"{file}: {rows.agrees.sum()} of {len(rows)} rows agree" + _named(rows[~rows.agrees]))
    print(f"The page is {REPORT.relative_to(ROOT)}.")
    return int(not all(rows.agrees.all() for rows in compared.values()))


def compare(stored, fresh, table):
    """A row for each row of either table (pandas), with `stored` and `fresh` means, `apart`, their difference, `allowed`, how far
    apart they may be, `agrees`, and the verdicts, blank where the table has none.

    Two means agree if they differ by less than the 95 % interval of a difference between two such studies allows. What was
    measured in seconds is another machine's own: it always agrees. A row that only one of the tables has does not.
    """
    names = list(table.names)
    both = stored.merge(fresh, on=names, how="outer", suffixes=("", "_fresh"), indicator=True)
    rows = pd.DataFrame({"row": [" ".join(map(str, values)) for values in both[names].itertuples(index=False)]})
    rows["stored"], rows["fresh"] = both[table.mean], both[f"{table.mean}_fresh"]
    rows["apart"] = (rows.fresh - rows.stored).abs()
    halves = [(both[f"high{of}"] - both[f"low{of}"]) / 2 for of in ("", "_fresh")]
    rows["allowed"] = np.hypot(*halves).fillna(WITHOUT_INTERVAL) + CLOSE * rows.stored.abs()
    in_seconds = both["over"] == "rounds" if "over" in both else False
    blank = rows.stored.isna() & rows.fresh.isna()
    rows["agrees"] = (both["_merge"] == "both") & ((rows.apart <= rows.allowed) | in_seconds | blank)
    for name in ("verdict", "verdict_fresh"):
        rows[name] = both.get(name, "")
    return rows


def report(compared, revision):
    """The page: a line for each table, then what does not agree, then verdicts that changed."""
    lines = [f"# Fresh results against {revision}", "", "| table | rows | agree |", "|---|---|---|"]
    lines += [f"| {file} | {len(rows)} | {rows.agrees.sum()} |" for file, rows in compared.items()]
    for title, chosen in (("Does not agree", lambda rows: ~rows.agrees), ("Another verdict", _another_verdict)):
        found = [(file, row) for file, rows in compared.items() for row in rows[chosen(rows)].itertuples()]
        lines += ["", f"## {title}", "", *(_line(file, row) for file, row in found)]
        lines += [] if found else ["Nothing."]
    lines += [
        "",
        "A mean agrees if it differs by no more than the 95 % interval of a difference between two such studies. A verdict may",
    ]
    lines += ["change where an interval ends near a limit, although the numbers agree."]
    return "\n".join(lines) + "\n"


def _another_verdict(rows):
    return rows.agrees & (rows.verdict != rows.verdict_fresh)


def _line(file, row):
    words = f" ({row.verdict}; now {row.verdict_fresh})" if row.verdict != row.verdict_fresh else ""
    if pd.isna(row.stored) or pd.isna(row.fresh):
        return f"* {file}, {row.row}: only in {'the fresh results' if pd.isna(row.stored) else 'Git'}"
    return f"* {file}, {row.row}: {row.stored:.4g} in Git, {row.fresh:.4g} now, up to {row.allowed:.2g} apart allowed{words}"


def _named(rows):
    return f"; not {', '.join(rows.row[:3])}{' and others' if len(rows) > 3 else ''}" if len(rows) else ""


def _fresh(file):
    path = ROOT / "results" / file
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. `make repro` writes it.")
    return pd.read_csv(path)


def _of_revision(file, revision):
    shown = subprocess.run(["git", "show", f"{revision}:results/{file}"], cwd=ROOT, capture_output=True, text=True)
    if shown.returncode:
        raise FileNotFoundError(f"Git has no results/{file} at {revision}: {shown.stderr.strip()}")
    return pd.read_csv(io.StringIO(shown.stdout))
