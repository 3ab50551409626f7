"""The commands behind dvc.yaml and the Makefile: python -m study.pipeline COMMAND. Nothing here computes a result."""

import argparse
import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import yaml

from study import notebooks, parameters
from study.notebooks import NOTEBOOKS
from study.paths import ROOT
from study.writing import whole, write_text

CLEAN = Path("build") / "clean"  # these three are in the project's folder
SECONDS = Path("build") / "seconds"
METHODS = Path("build") / "methods.txt"
MARKER = ".made-by-smoke"  # in a folder that copy_project made


# What the stages of dvc.yaml call


def clean():
    """Write the notebooks without outputs to build/clean: saving a notebook then leaves its stage fresh."""
    shutil.rmtree(ROOT / CLEAN, ignore_errors=True)
    for key in NOTEBOOKS:
        notebooks.write_clean(key, ROOT / CLEAN / f"{key}.ipynb")


def run(key):
    """Run a notebook's clean copy with its parameters from params.yaml, to results/<key>/<key>.ipynb. A mistake in the parameters
    of any notebook stops it before anything is written."""
    stages = _checked_parameters()
    if key not in stages:
        raise SystemExit(f"params.yaml has no parameters of {key}; expected a mapping of that name.")
    results, start = ROOT / stages[key]["results"], time.time()
    notebooks.execute(ROOT / CLEAN / f"{key}.ipynb", results / key / f"{key}.ipynb", stages[key])
    for folder in (results / key, results / "arrays" / key):
        _remove_older(folder, start)
    _note_seconds(key, start)


def methods():
    """Write build/methods.txt, a checksum of every file that the methods' notebooks left in results/: the analysis and the paper
    depend on this one for all of them."""
    keys = _dvc_stages()["method"]["matrix"]["key"]
    files = sorted(path for key in keys for path in (ROOT / "results" / key).rglob("*") if path.is_file())
    lines = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(ROOT).as_posix()}\n" for path in files]
    write_text(ROOT / METHODS, "".join(lines))


def paper():
    """Compile paper/paper.typ, with the results on pictures in colour where they are there."""
    import typst  # takes longer to load than most commands run

    _checked_parameters()
    start = time.time()
    colour = {"colour": "results/colour"} if (ROOT / "results" / "colour" / "claims.csv").exists() else {}
    options = {"root": ROOT, "ignore_system_fonts": True, "timestamp": datetime.fromtimestamp(0, UTC)}
    with whole(ROOT / "paper" / "paper.pdf") as unfinished:
        typst.compile(ROOT / "paper" / "paper.typ", output=unfinished, sys_inputs=colour, **options)
    _note_seconds("paper", start)


def _checked_parameters():
    """{key: parameters} of params.yaml. Exits with a line for each mistake in them, of whichever notebook."""
    try:
        stages = yaml.safe_load((ROOT / "params.yaml").read_text())
        parameters.check_stages(stages, "params.yaml")
    except yaml.YAMLError as error:
        raise SystemExit(f"params.yaml cannot be read as YAML: {error}") from None
    except ValueError as error:
        raise SystemExit(str(error)) from None
    return stages


def _remove_older(folder, start):
    """Remove the files that were not written since start: DVC leaves a stage's results in place, so that a stage that fails loses
    nothing, and what the notebook no longer writes would stay for ever."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_mtime < start - 1:  # a file system may round its times down
            path.unlink()


def _note_seconds(stage, start):
    write_text(ROOT / SECONDS / f"{stage}.json", json.dumps(round(time.time() - start, 1)))


# What people and the Makefile call


def prepare():
    """Make what DVC's commands look for and a fresh clone lacks: clean copies, the list of methods' results, empty folders."""
    clean()
    methods()
    for folder in ("data", "results/arrays/data", "results/arrays/cross_entropy", "results/colour"):
        (ROOT / folder).mkdir(parents=True, exist_ok=True)


def check():
    """Check params.yaml against the definition of all parameters, before anything runs: `make repro` begins with it."""
    _checked_parameters()


def refresh(*keys):
    """Run source notebooks (all, or those named) in place with their own defaults, so that stored outputs match the code."""
    for key in keys or NOTEBOOKS:
        notebooks.execute(NOTEBOOKS[key], NOTEBOOKS[key], {})


def smoke(folder):
    """Run the pipeline at toy size, the notebooks' own defaults, in a copy of the project: folder, which is made anew.

    The digits come with scikit-learn, so data/ stays empty there.
    """
    folder = Path(folder).resolve()
    _refuse_other_files(folder)
    shutil.rmtree(folder, ignore_errors=True)
    copy_project(folder)
    (folder / "data").mkdir()
    toy = {key: notebooks.defaults(key) | {"results": "results"} for key in NOTEBOOKS}
    write_text(folder / "params.yaml", yaml.safe_dump(toy, sort_keys=False))
    repro(folder)
    summary(folder)


def verdicts():
    """Recompute the analysis from the results that Git holds, into build/verdicts, and say what differs from what is stored."""
    from study.verdicts import recompute

    raise SystemExit(recompute())


def verify():
    """Say for each table and claim of the results whether it agrees with what Git holds, within their intervals."""
    from study.verify import verify

    raise SystemExit(verify())


def notebook_files():
    """Print the notebooks' files, each after those whose results it reads."""
    print(*(path.relative_to(ROOT) for path in NOTEBOOKS.values()))


def summary(folder=ROOT):
    """Print where the results are, and how long each stage took when it last ran here."""
    folder = Path(folder)
    print("\nseconds each stage took when it last ran here")
    for path in sorted((folder / SECONDS).glob("*.json"), key=lambda path: path.stat().st_mtime):
        print(f"  {path.stem:<20}{json.loads(path.read_text()):8.0f}")
    for path in ("results/<notebook>/figures", "results/accuracy.csv", "results/claims.csv", "paper/paper.pdf"):
        print(folder / path)


# The pipeline in a copy of the project


def copy_project(folder):
    """Copy the project's own files (no results, data, caches or history) to folder, which must be new or made by this. What was
    computed there stays."""
    _refuse_other_files(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    for name in ("notebooks", "src", "paper"):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pdf", "__pycache__", "*.egg-info", ".*"))
    (folder / "results" / "colour").mkdir(parents=True, exist_ok=True)
    (folder / ".dvc").mkdir(exist_ok=True)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore", ".dvc/plots.html"):
        shutil.copy(ROOT / name, folder / name)
    write_text(folder / ".dvc" / "config.local", "[core]\n    no_scm = true\n")


def _refuse_other_files(folder):
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise FileExistsError(f"{folder} holds other files; name a folder that does not exist yet.")


def stages():
    """{key or name: the stage's name} as DVC calls them: supcon is one of a matrix, method@supcon."""
    names = {}
    for name, stage in _dvc_stages().items():
        names |= {key: f"{name}@{key}" for key in stage["matrix"]["key"]} if "matrix" in stage else {name: name}
    return names


def _dvc_stages():
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


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


COMMANDS = {
    "clean": clean, "run": run, "methods": methods, "paper": paper, "prepare": prepare, "check": check, "refresh": refresh,
    "smoke": smoke, "verdicts": verdicts, "verify": verify, "list": notebook_files, "summary": summary,
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, function in COMMANDS.items():
        command = commands.add_parser(name, help=" ".join(function.__doc__.split()), description=function.__doc__)
        for parameter in inspect.signature(function).parameters.values():
            needed = parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty
            command.add_argument("arguments", metavar=parameter.name, nargs=1 if needed else "*")
    options = parser.parse_args()
    COMMANDS[options.command](*vars(options).get("arguments", ()))


if __name__ == "__main__":
    main()
