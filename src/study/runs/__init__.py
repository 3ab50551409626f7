"""Runs: train on a draw of images or on frozen features, measure, keep the results. A Run describes what is done, so that every
method is trained and tested by the same code; the notebooks only choose objectives and settings.

No loss, figure or statistic is here.
"""

from study.runs.execution import execute, run_all
from study.runs.features import extract_features, frozen_batch
from study.runs.results import read_runs, table, write_checks, write_floors, write_results, write_runs
from study.runs.run import Outcome, Run, Trained, trained_on
from study.runs.setup import Recipe, Setup, load_model, new_model, save_model
from study.runs.shared import draw_name
from study.runs.tuning import alternatives, as_reported, change_settings, choose, random_search, reported, trial_runs

__all__ = [
    "execute", "run_all", "extract_features", "frozen_batch", "Outcome", "Run", "Trained", "trained_on", "Recipe", "Setup",
    "load_model", "new_model", "save_model", "draw_name", "read_runs", "table", "write_checks", "write_floors", "write_results",
    "write_runs", "alternatives", "as_reported", "change_settings", "choose", "random_search", "reported", "trial_runs",
]  # fmt: skip
