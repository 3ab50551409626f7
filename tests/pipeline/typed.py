"""Commands as one types them in a project's folder, and what they say."""

import contextlib
import re
import subprocess

from dvc.repo import Repo

from study import pipeline
from study.paths import ROOT

# The fixture `project` empties this folder and then keeps here the runs that it executes. Its tests take them from here, and so
# do the notebooks in `make test`.
RUNS = ROOT / "build" / "test-runs"
GIT = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def typed(folder, command, fails=False):
    """What a command typed in folder, in the activated environment, prints. Raises if it fails, or if it does not and should."""
    environment = pipeline.environment(folder) | GIT | {"SUPCL_RUNS": str(RUNS)}
    ran = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert bool(ran.returncode) == fails, f"{command}\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"
    return ran.stdout + ran.stderr


def stages_run(printed):
    """Names of the stages that `dvc repro` or `dvc exp run` said it runs."""
    return set(re.findall(r"Running stage '([^']+)'", printed))


def stale(folder):
    """Names of the stages whose own dependencies changed, as `dvc status` has them."""
    with contextlib.chdir(folder), Repo() as repo:
        return set(repo.status())
