"""What the README says still holds."""

import re

import pandas as pd

from supcl import pipeline
from supcl.paths import ROOT

README = (ROOT / "README.md").read_text()


def test_the_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope = {}
    exec(example, scope)
    assert scope["loss"].isfinite() and scope["embeddings"].grad.isfinite().all()


def test_the_results_are_those_of_the_table():
    assert pipeline.with_results(README, pd.read_csv(ROOT / "results" / "table.csv")) == README


def test_a_changed_number_changes_the_results():
    table = pd.read_csv(ROOT / "results" / "table.csv")
    table.loc[0, "mean"] += 1
    assert pipeline.with_results(README, table) != README


def test_every_link_leads_to_a_file():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_command_is_a_target():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z]+)", README)) <= set(targets)


def test_the_tree_names_every_module():
    for path in (ROOT / "src" / "supcl").glob("[a-z]*.py"):
        assert path.stem == "paths" or f"  {path.name} " in README, path.name
