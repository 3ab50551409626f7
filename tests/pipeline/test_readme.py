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
        ("README.md", "accuracy.csv", "mean"),
        ("README.md", "cost/cost.csv", "value"),
        ("README.md", "claims.csv", "effect"),
        ("README.md", "claims.csv", "verdict"),
        ("docs/larger.md", "estimates.csv", "gpu_hours"),
    ],
)
def test_a_changed_number_changes_the_page(tmp_path, page, changed, column):
    for file, _ in readme.PAGES[page].values():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "results" / file, tmp_path / file)
    table = pd.read_csv(tmp_path / changed)
    table[column] = "opposite" if column == "verdict" else table[column] + 1e9
    before = readme.with_results(page, PAGES[page], tmp_path)
    table.to_csv(tmp_path / changed)
    assert readme.with_results(page, PAGES[page], tmp_path) != before


def claims(verdicts, data_set="fashion-mnist"):
    rows = [
        {
            "id": f"c{k}",
            "claim": f"claim {k}",
            "data_set": data_set,
            "cell": "scratch/full",
            "family": "confirmatory",
            "verdict": v,
        }
        for k, v in enumerate(verdicts)
    ]
    return pd.DataFrame(rows).assign(effect=0.84, low=-0.04, high=1.7, reported=[2.0] + [None] * (len(rows) - 1))


def test_what_survives_is_said_in_three_sentences_that_follow_from_the_verdicts():
    table = pd.concat([claims(["supported", "undecided", "opposite"]), claims(["undecided", "not testable here"], "cifar-10")])
    first, second, third = readme.survival(pd.concat([table, claims(["supported"]).assign(family="exploratory")]))
    assert first == (
        "**Confirmatory claims tested on Fashion-MNIST and CIFAR-10: 5. Supported: 1 (claim 0, from scratch (Fashion-MNIST, "
        "+0.8 points)).**"
    )
    assert second.startswith(
        "Smaller than reported: none. Practically no difference: none. The opposite: 1 (claim 2, from scratch"
    )
    assert third.startswith("Undecided with so few runs: 2.") and third.endswith(
        "does not clear the best floor: 1. The gain that a paper reports lies above our interval in 2 of 2 cases."
    )
    assert readme.survival(claims(["undecided"]))[0].endswith("on Fashion-MNIST: 1. Supported: none.**")


def test_verdicts_stand_beside_each_other_for_every_data_set():
    lines = readme.verdicts_table(pd.concat([claims(["supported", "opposite"]), claims(["undecided"], "cifar-10")]))
    assert lines == [
        "| claim | reported | Fashion-MNIST | CIFAR-10 |",
        "|---|---|---|---|",
        "| claim 0, from scratch | +2 | supported: +0.8 (+0.0 to +1.7) | undecided: +0.8 (+0.0 to +1.7) |",
        "| claim 1, from scratch |  | opposite: +0.8 (+0.0 to +1.7) |  |",
    ]


def test_accuracies_are_those_of_one_read_out_with_floors_first(tmp_path):
    columns = ["data_set", "regime", "labels", "method", "read_out", "mean", "low", "high", "runs"]
    rows = [["digits", "fine-tuning", "20", "CE", "linear probe", 80.04, 79.0, 81.0, 8]]
    rows += [["digits", "fine-tuning", "20", "CE", "own classifier", 79.0, 78.0, 80.0, 4]]
    rows += [["digits", "fine-tuning", "20", "pixels, SVM", "as it is", 70.0, None, None, 1]]
    rows += [["digits", "scratch", "full", "CE", "linear probe", 90.0, 89.0, 91.0, 8]]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "accuracy.csv", index=False)
    (tmp_path / "colour").mkdir()
    pd.DataFrame(rows[-1:], columns=columns).assign(data_set="cifar-10").to_csv(tmp_path / "colour" / "accuracy.csv", index=False)
    assert readme.accuracy_table(readme.read(tmp_path, "accuracy.csv")) == [
        "| | digits, fine-tuning, 20 per class | digits, from scratch | CIFAR-10, from scratch |",
        "|---|---|---|---|",
        "| *floor: pixels, SVM* | 70.0 |  |  |",
        "| CE | 80.0 (79.0 to 81.0) | 90.0 (89.0 to 91.0) | 90.0 (89.0 to 91.0) |",
    ]


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
