"""The analysis again from what Git holds, without data, weights or DVC's cache, compared with what is stored."""

import json
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import yaml

from study import notebooks
from study.paths import ROOT

AGAIN = ROOT / "build" / "verdicts"
# Columns that say which row it is, where a table has them.
NAMES = [
    "id", "notebook", "data_set", "cell", "regime", "labels", "method", "read_out", "variant", "trained_on", "shots", "settings",
]  # fmt: skip
RELATIVE = 1e-6  # by so much numbers may differ: the rounding of another processor
PIXELS = 0.001  # share of a figure's pixels that may differ: another version of a font
BESIDE = ["accuracy.csv", "claims.csv"]  # what the analysis writes beside its own folder
MAPS = "maps.png"  # t-SNE carries the last digit of a number across the whole picture


def recompute():
    """Run the analysis into build/verdicts, print file by file what differs from what is stored in results, and return 1 if
    something that matters does, else 0."""
    shutil.rmtree(AGAIN, ignore_errors=True)
    only_numbers = shutil.ignore_patterns("analysis", "colour", "arrays", "*.png", "*.ipynb", *BESIDE)
    shutil.copytree(ROOT / "results", AGAIN, ignore=only_numbers)
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())["analysis"]
    parameters["results"] = AGAIN.relative_to(ROOT).as_posix()
    notebooks.write_clean("analysis", AGAIN / "clean.ipynb")
    notebooks.execute(AGAIN / "clean.ipynb", AGAIN / "analysis" / "analysis.ipynb", parameters)
    return report(ROOT / "results", AGAIN)


def report(stored, again):
    """Print what differs between what the analysis wrote in two folders of results; 0 if nothing that matters does, else 1."""
    written = [path for folder in (stored, again) for path in [*(folder / "analysis").rglob("*"), *map(folder.joinpath, BESIDE)]]
    files = {path.relative_to(again if path.is_relative_to(again) else stored) for path in written if path.suffix in COMPARE}
    matters = False
    print(f"\n{again} against {stored}")
    for file in sorted(files):
        if missing := [folder for folder in (stored, again) if not (folder / file).exists()]:
            lines = [f"is missing in {missing[0]}"]
        else:
            lines = COMPARE[file.suffix](stored / file, again / file)
        print(f"  {file}: {'the same' if not lines else ''}" + "".join(f"\n    {line}" for line in lines))
        matters |= bool(lines) and file.name != MAPS
    print("Something differs: see above." if matters else "Every table, figure and verdict is the one stored.")
    return int(matters)


def table_differences(stored, again):
    """Lines on the cells of two CSV files that are not the same, each with its row's names, its column and both values."""
    a, b = pd.read_csv(stored), pd.read_csv(again)
    if list(a.columns) != list(b.columns) or len(a) != len(b):
        return [f"{len(a)} rows of {', '.join(a)}; now {len(b)} rows of {', '.join(b)}"]
    lines = []
    for column in a:
        for row in np.flatnonzero([not same(x, y) for x, y in zip(a[column], b[column], strict=True)]):
            which = " ".join(str(a[name][row]) for name in NAMES if name in a and name != column) or f"row {row}"
            lines.append(f"{which}: {column} was {a[column][row]}, is {b[column][row]}")
    return lines


def metric_differences(stored, again):
    """Lines on the numbers of two JSON files, name by name."""
    a, b = (pd.json_normalize(json.loads(path.read_text()), sep=" ").iloc[0].to_dict() for path in (stored, again))
    return [f"{name} was {a.get(name)}, is {b.get(name)}" for name in a | b if not same(a.get(name), b.get(name))]


def figure_differences(stored, again):
    """A line on how many pixels of two pictures differ, if these are more than another version of a font explains."""
    if stored.read_bytes() == again.read_bytes():
        return []
    a, b = plt.imread(stored), plt.imread(again)
    if a.shape != b.shape:
        return [f"{a.shape[1]} x {a.shape[0]} pixels, now {b.shape[1]} x {b.shape[0]}"]
    share = (np.abs(a - b).max(axis=-1) > 0.1).mean()
    return [f"{100 * share:.1f} % of the pixels differ"] if share > PIXELS else []


def same(x, y):
    """Whether two cells hold the same: numbers up to rounding, two blanks, or equal words."""
    if isinstance(x, str) or isinstance(y, str) or x is None or y is None:
        return x == y
    return np.isclose(x, y, rtol=RELATIVE, atol=1e-12, equal_nan=True)


COMPARE = {".csv": table_differences, ".json": metric_differences, ".png": figure_differences}
