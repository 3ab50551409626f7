"""What the README and the pages in docs/ say still holds."""

import re
import shutil

import pandas as pd
import pytest

from study import readme, runs
from study.paths import ROOT

PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]}


def python_in(page):
    (code,) = re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)
    return code


def test_the_example_of_the_losses_runs():
    scope = {}
    exec(python_in("README.md"), scope)
    assert scope["loss"].isfinite() and scope["embeddings"].grad.isfinite().all()


def test_the_script_for_several_processes_asks_for_the_run_it_names(monkeypatch):
    calls = []
    monkeypatch.setattr(runs, "run_all", lambda *arguments: calls.append(arguments) or [None])
    monkeypatch.chdir(ROOT)
    exec(python_in("docs/larger.md"), {})
    (((run,), setup),) = calls
    assert (run.method, run.queue.size, setup.batch_size, setup.shared) == ("SupCon", 1024, 128, "results/arrays/data")


@pytest.mark.parametrize("page", readme.PAGES)
def test_the_results_are_those_of_the_tables(page):
    assert readme.with_results(page, PAGES[page], ROOT / "results") == PAGES[page]


@pytest.mark.parametrize(
    "page, changed, column",
    [
        ("README.md", "analysis/table.csv", "mean"),
        ("README.md", "cost/cost.csv", "value"),
        ("README.md", "analysis/claims.csv", "verdict"),
        ("docs/larger.md", "estimates.csv", "gpu_hours"),
    ],
)
def test_a_changed_number_changes_the_page(tmp_path, page, changed, column):
    for file, _ in readme.PAGES[page].values():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "results" / file, tmp_path / file)
    table = pd.read_csv(tmp_path / changed)
    table[column] = "refuted" if column == "verdict" else table[column] + 1e9
    table.to_csv(tmp_path / changed)
    assert readme.with_results(page, PAGES[page], tmp_path) != PAGES[page]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGES[page]):
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_a_target(page):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z]+)", PAGES[page])) <= set(targets)


def test_the_tree_names_every_module_of_supcl_and_every_folder_of_study():
    named = re.findall(r"^  ([\w./]+)", PAGES["README.md"], re.MULTILINE)
    modules = {path.name for path in (ROOT / "src" / "supcl").glob("[a-z]*.py")}
    folders = {f"{path.parent.name}/" for path in (ROOT / "src" / "study").glob("*/__init__.py")}
    assert modules | folders <= set(named)


def test_the_line_for_each_question_about_a_method_is_where_the_readme_says():
    assert "def schane_loss(" in (ROOT / "src" / "supcl" / "losses.py").read_text()
    assert "def test_loss_is_the_double_loop(" in (ROOT / "tests" / "supcl" / "test_losses.py").read_text()
    assert "\n  method:" in (ROOT / "dvc.yaml").read_text()
