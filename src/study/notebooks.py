"""The notebooks as programs: in which order they run, their parameters, their execution by papermill.

A notebook's key is its file's name without the number: params.yaml, dvc.yaml and results/ call it so.
"""

import os
import sys

# nbformat imports jsonschema, which takes over a second to build a grammar of web addresses. No notebook is checked by it.
if "rfc3987_syntax" not in sys.modules:
    sys.modules["rfc3987_syntax"] = None  # as if it were not installed

import nbformat
from nbstripout import strip_output

from study.paths import ROOT
from study.progress import without_remarks
from study.writing import disk_named, whole

NOTEBOOKS = {path.stem.partition("_")[2]: path for path in sorted((ROOT / "notebooks").glob("[0-9]*_*.ipynb"))}  # key -> file
# What papermill and its engine leave in an executed notebook that differs from run to run.
VOLATILE = ["metadata.papermill", "metadata.language_info", "cell.metadata.papermill", "cell.metadata.execution"]


def defaults(key):
    """The values of a notebook's `parameters` cell, by name."""
    cells = nbformat.read(NOTEBOOKS[key], as_version=4).cells
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    values = {}
    exec(cell.source, {}, values)  # literals only, as a test checks
    return values


def write_clean(key, path):
    """Write the notebook without outputs to path."""
    _write(_normalised(nbformat.read(NOTEBOOKS[key], as_version=4), keep=False), path)


def execute(source, target, parameters):
    """Run the notebook source with parameters, into target, without what differs from run to run. A notebook that fails leaves
    target as it was, and itself, as far as it came, where a note on the error says."""
    import papermill  # takes longer to load than most commands run

    running = ROOT / "build" / "running" / target.name
    running.parent.mkdir(parents=True, exist_ok=True)
    # joblib replaces a worker whose memory has grown and says so at random times, which would end up in the notebook
    os.environ["PYTHONWARNINGS"] = "ignore:A worker stopped"
    try:
        with disk_named(running):
            papermill.execute_notebook(
                source, running, parameters, kernel_name="python3", cwd=ROOT, progress_bar=False, log_output=True,
                stdout_file=sys.stdout, stderr_file=sys.stderr,
                coalesce_streams=True,  # lines printed close together arrive as one output or as two, by chance
            )  # fmt: skip
    except Exception as error:
        error.add_note(f"The notebook with its outputs up to this error: {running}")
        raise
    executed = nbformat.read(running, as_version=4)
    for number, cell in enumerate(executed.cells):
        cell.id = str(number)
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = without_remarks(output.text)
    _write(_normalised(executed, keep=True), target)
    running.unlink()


def _normalised(notebook, keep):
    """The notebook without what differs from run to run; outputs and counts stay if keep."""
    return strip_output(notebook, keep_output=keep, keep_count=keep, keep_id=True, extra_keys=VOLATILE)


def _write(notebook, path):
    with whole(path) as unfinished:
        nbformat.write(notebook, unfinished)
