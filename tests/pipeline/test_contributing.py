"""The walk through CONTRIBUTING.md, taken in a copy of the project."""

import re
import shutil
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
import yaml

from study import pipeline
from study.paths import ROOT

BLOCK = re.compile(r"<!-- (append to|in|notebook) (\S+?)(?:, (before|instead of) `(.*?)`)? -->\n```\w+\n(.*?)```", re.DOTALL)


def steps():
    """(how, file, place, anchor, content) of each block of the page, in its order."""
    return BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())


def take(folder, how, file, place, anchor, content):
    path = folder / file
    if how == "notebook":
        write_notebook(path, content)
    elif how == "append to":
        path.write_text(path.read_text() + ("\n\n" if path.suffix == ".py" else "") + content)
    else:
        text, content = path.read_text(), content if place == "before" else content.strip("\n")
        assert text.count(anchor) == 1, f"{anchor!r} stands {text.count(anchor)} times in {file}; expected once."
        path.write_text(text.replace(anchor, content + anchor if place == "before" else content))


def write_notebook(path, cells):
    """From text in which each cell follows a line `# %%`, with its tag in brackets."""
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    for tag, source in re.findall(r"# %%(?: \[(\w+)\])?\n(.*?)(?=# %%|\Z)", cells, re.DOTALL):
        notebook.cells.append(nbformat.v4.new_code_cell(source.strip("\n"), metadata={"tags": [tag] if tag else []}))
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def project_with_nca(project, tmp_path_factory):
    """A copy of the project with the method of the page, its notebook run at toy size on what `data` wrote there."""
    folder = tmp_path_factory.mktemp("contributing") / "project"
    pipeline.copy_project(folder)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / "data").mkdir()
    for step in steps():
        take(folder, *step)
    laptop = yaml.safe_load((folder / "params.yaml").read_text())
    toy = python(
        folder, "import json; from study import notebooks as n; print(json.dumps({k: n.defaults(k) for k in n.NOTEBOOKS}))"
    )
    toy = {key: values | {"results": "results"} for key, values in yaml.safe_load(toy).items()}
    assert laptop["nca"].keys() == toy["nca"].keys()
    (folder / "params.yaml").write_text(yaml.safe_dump(toy))
    for written in ("results/data", "results/arrays/data"):
        shutil.copytree(project / written, folder / written)
    pipeline.repro(folder, "--single-item", "clean", "method@nca")
    return folder


def python(folder, code):
    """What the code prints, in the folder and with its modules."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, env=pipeline.environment(folder), stdout=subprocess.PIPE, check=True, text=True
    ).stdout


def test_a_method_touches_at_most_seven_files():
    assert len({file for _, file, *_ in steps()}) <= 7


def test_its_notebook_runs_and_leaves_its_results_and_a_figure(project_with_nca):
    results = project_with_nca / "results" / "nca"
    runs = pd.read_csv(results / "runs.csv")
    assert set(runs.method) == {"NCA"} and {"trial", "main"} == set(runs.variant)
    assert (results / "figures" / "accuracy.png").stat().st_size > 5000 and (results / "predictions.npz").exists()


def test_figures_of_all_methods_show_it_in_its_colour(project_with_nca):
    code = (
        "import pandas as pd\n"
        "from study import figures\n"
        "from study.analysis import comparison, plots\n"
        "runs = pd.read_csv('results/nca/runs.csv', dtype={'shots': 'Int64'})\n"
        "runs = runs[runs.variant == 'main']\n"
        "shapes = ['within_class_cosine', 'between_class_cosine', 'isotropy', 'simplex_distance']\n"
        "summary = comparison.summarise_each(pd.concat([runs.assign(method='CE'), runs]), shapes)\n"
        "fig = plots.geometry_figure(summary, {name: name for name in shapes})\n"
        "print([label.get_text() for label in fig.axes[0].get_yticklabels()], figures.colour_of('NCA'))"
    )
    assert python(project_with_nca, code).strip() == "['CE', 'NCA'] #e69f00"


def test_the_project_s_own_tests_pass_with_it(project_with_nca):
    """The loss agrees with its reference, and the pipeline knows the notebook."""
    files, names = (
        ["tests/supcl/test_losses.py", "tests/pipeline/test_notebooks.py"],
        "nca and double_loop or numbered or stage_depends",
    )
    command = [sys.executable, "-m", "pytest", "-vv", *files, "-k", names]
    run = subprocess.run(
        command, cwd=project_with_nca, env=pipeline.environment(project_with_nca), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for name in ("test_loss_is_the_double_loop[nca", "test_notebooks_are_numbered", "test_a_stage_depends"):
        assert name in run.stdout
