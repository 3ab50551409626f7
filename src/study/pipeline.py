"""Commands behind dvc.yaml and the Makefile: python -m study.pipeline COMMAND. Nothing here computes a result.

clean            notebooks without outputs, to build/clean: saving a notebook then leaves its stage fresh
run NAME         papermill runs the clean copy with its parameters from params.yaml, to <results>/notebooks
paper            compile paper/paper.typ
refresh [NAME]   run source notebooks in place with their own defaults, so that stored outputs match the code
smoke FOLDER     the whole pipeline at toy size in a copy of the project
list             the notebooks, each after those whose results it reads
readme           put the tables of results/ into README.md
summary          where the results are, and how long each stage took when it last ran here
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import yaml
from nbstripout import strip_output

from study.paths import ROOT

CLEAN = ROOT / "build" / "clean"
SECONDS = Path("build") / "seconds"  # in the project's folder
WRITTEN = {
    "figures": "results/figures",
    "claims": "results/claims.csv",
    "table": "results/table.csv",
    "notebooks": "results/notebooks",
    "paper": "paper/paper.pdf",
}
# What `smoke` makes smaller than the notebooks' defaults, where a notebook has such a parameter.
SMALLER = {
    "encoder": "test_resnet", "weights": "none",
    "shots": [5], "seeds": [2], "epochs": [1], "sweep_seeds": 1, "map_images": 100, "timing_rounds": 1,
    "corruption_seeds": 1, "feature_seeds": 1, "class_splits": 1, "transfer_seeds": 1, "back_seeds": 1,
    "collapse_seeds": [1, 1], "flipped_seeds": 1, "crop_seeds": 1, "factor_seeds": 1, "epoch_seeds": 1,
}  # fmt: skip
MARKER = ".made-by-smoke"  # in a folder that copy_project made
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NOTEBOOKS = [stage for stage in STAGES if (ROOT / "notebooks" / f"{stage}.ipynb").exists()]  # each after those it reads from
# What papermill and its engine leave in an executed notebook that differs from run to run.
VOLATILE = ["metadata.papermill", "metadata.language_info", "cell.metadata.papermill", "cell.metadata.execution"]


def clean():
    for name in NOTEBOOKS:
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        _write(_normalised(notebook, keep=False), CLEAN / f"{name}.ipynb")


def run(name):
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())[name]
    _check_parameters(name, parameters, notebook_defaults(name))
    target = ROOT / parameters["results"] / "notebooks" / f"{name}.ipynb"
    execute(CLEAN / f"{name}.ipynb", target, parameters)


def refresh(name):
    path = ROOT / "notebooks" / f"{name}.ipynb"
    running = ROOT / "build" / "refresh" / f"{name}.ipynb"  # a notebook that fails leaves its source as it was
    execute(path, running, {})
    shutil.copy(running, path)


def execute(source, target, parameters):
    """Run the notebook source with parameters, into target, without what differs from run to run."""
    import papermill

    target.parent.mkdir(parents=True, exist_ok=True)
    # joblib replaces a worker whose memory has grown and says so at random times, which would end up in the notebook
    os.environ["PYTHONWARNINGS"] = "ignore:A worker stopped"
    papermill.execute_notebook(
        source, target, parameters, kernel_name="python3", cwd=ROOT, progress_bar=False, log_output=True,
        stdout_file=sys.stdout, stderr_file=sys.stderr,
        coalesce_streams=True,  # lines printed close together arrive as one output or as two, by chance
    )  # fmt: skip
    executed = nbformat.read(target, as_version=4)
    for number, cell in enumerate(executed.cells):
        cell.id = str(number)
    _write(_normalised(executed, keep=True), target)


def notebook_defaults(name):
    """The values of a notebook's `parameters` cell, by name."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    defaults = {}
    exec(cell.source, {}, defaults)  # literals only, as a test checks
    return defaults


def paper():
    import typst  # imported where needed, as is papermill: most commands are over in less time than these take to load

    options = {"root": ROOT, "ignore_system_fonts": True, "timestamp": datetime.fromtimestamp(0, UTC)}
    typst.compile(ROOT / "paper" / "paper.typ", output=ROOT / "paper" / "paper.pdf", **options)


def smoke(folder):
    """Run the pipeline at toy size in folder, which is made anew; nothing else is touched. Parameters are each notebook's
    defaults but for SMALLER, which keeps the whole to a few minutes.

    The smoke profile's digits come with scikit-learn, so data/ stays empty there.
    """
    folder = Path(folder).resolve()
    _refuse_other_files(folder)
    shutil.rmtree(folder, ignore_errors=True)
    copy_project(folder)
    (folder / "data").mkdir()
    parameters = {}
    for name in NOTEBOOKS:
        defaults = notebook_defaults(name)
        smaller = {key: value for key, value in SMALLER.items() if type(defaults.get(key)) is type(value)}
        parameters[name] = defaults | smaller | {"results": "results"}
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False))
    repro(folder)
    summary(folder)


def copy_project(folder):
    """Copy the project's own files (no results, data, caches or history) to folder, which must be new or made by this. What was
    computed there stays."""
    _refuse_other_files(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    for name in ("notebooks", "src", "paper"):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pdf", "__pycache__", "*.egg-info", ".*"))
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / ".dvc").mkdir(exist_ok=True)
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc")
    (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")


def _refuse_other_files(folder):
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise FileExistsError(f"{folder} holds other files; name a folder that does not exist yet.")


def repro(folder, *arguments, **variables):
    """`dvc repro` in folder, with variables in its environment; returns what it printed. Raises if a stage fails."""
    command = [sys.executable, "-m", "dvc", "repro", *arguments]
    lines = []
    with subprocess.Popen(
        command, cwd=folder, env=environment(folder) | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"`dvc repro` failed in {folder}; the lines above say where.")
    return "".join(lines)


def environment(folder):
    """What commands on the pipeline in folder need: the folder's own modules, and this Python, as dvc.yaml calls `python`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PYTHONPATH": str(Path(folder) / "src"), "PATH": path}


def readme():
    path = ROOT / "README.md"
    path.write_text(with_results(path.read_text(), ROOT / "results"))


def with_results(text, results):
    """README's text with what stands between each pair of markers replaced by a table of the folder results."""
    import pandas as pd

    for name, file, table in (
        ("claims", "claims.csv", claims_table),
        ("accuracy", "table.csv", accuracy_table),
        ("cost", "cost.csv", cost_table),
        ("estimates", "estimates.csv", estimates_table),
    ):
        start, end = text.index(f"<!-- {name}:"), text.index(f"<!-- end of {name} -->")
        lines = table(pd.read_csv(results / file))
        text = text[: text.index("\n", start) + 1] + "\n".join(lines) + "\n" + text[end:]
    return text


def claims_table(claims):
    """Lines of Markdown: how many claims of each paper got which verdict, as ledger.tally counts them."""
    from study.analysis.ledger import tally

    counts = tally(claims)
    lines = ["| claims of | " + " | ".join(counts.columns) + " |", "|---" * (1 + len(counts.columns)) + "|"]
    return lines + [f"| {paper} | " + " | ".join(str(n) for n in row) + " |" for paper, *row in counts.itertuples()]


def accuracy_table(table):
    """Lines of Markdown: a row per method, columns as in results/table.csv for each number of shots."""
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


def summary(folder=ROOT):
    print("\nseconds each stage took when it last ran here")
    for path in sorted((folder / SECONDS).glob("*.json"), key=lambda path: path.stat().st_mtime):
        print(f"  {path.stem:<20}{json.loads(path.read_text()):8.0f}")
    for what, path in WRITTEN.items():
        print(f"{what:<22}{folder / path}")


def _normalised(notebook, keep):
    """Without what differs from run to run; outputs and counts stay if keep."""
    return strip_output(notebook, keep_output=keep, keep_count=keep, keep_id=True, extra_keys=VOLATILE)


def _check_parameters(name, given, expected):
    if given.keys() != expected.keys():
        raise SystemExit(
            f"params.yaml and the parameters cell of {name} differ: "
            f"only in params.yaml {sorted(given.keys() - expected.keys())}, "
            f"only in the notebook {sorted(expected.keys() - given.keys())}."
        )


def _write(notebook, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["clean", "run", "paper", "refresh", "list", "smoke", "readme", "summary"])
    parser.add_argument("argument", nargs="?")
    options = parser.parse_args()
    start = time.perf_counter()
    if options.command == "refresh":
        for name in [options.argument] if options.argument else NOTEBOOKS:
            refresh(name)
    elif options.argument:
        globals()[options.command](options.argument)
    elif options.command == "list":
        print(*(f"notebooks/{name}.ipynb" for name in NOTEBOOKS))
    else:
        globals()[options.command]()
    if options.command in ("run", "paper"):
        (ROOT / SECONDS).mkdir(parents=True, exist_ok=True)
        stage = options.argument or options.command
        (ROOT / SECONDS / f"{stage}.json").write_text(json.dumps(round(time.perf_counter() - start, 1)))


if __name__ == "__main__":
    main()
