"""Which torch and which Python the losses work with: their tests, on the oldest torch that pyproject.toml allows and the newest.

python tests/compat.py (`make compat`) takes each Python from 3.11 to 3.14 that this machine has. For each pair it makes a virtual
environment under build/compat, installs this package there as a user would, runs tests/supcl against it, and removes the
environment again, which holds up to 6 GB where pip brings torch for CUDA. The whole reports lie in build/compat/*.log.
--torch tries other releases, to move the bound.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "compat"
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
NEWEST = "newest"
NEEDED = ["pytest<10", "hypothesis", "numpy", "pytorch-metric-learning"]  # by tests/supcl


def oldest_torch():
    """The lower bound in pyproject.toml: "2.5" of "torch>=2.5"."""
    (needed,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    name, bound = needed.split(">=")
    if name != "torch":
        raise ValueError(f'dependencies of pyproject.toml are "{needed}"; expected torch alone, as "torch>=2.5".')
    return bound


def find_python(version):
    """A command that starts this version of Python, on the PATH or from pyenv; None if the machine has none."""
    installed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for command in (shutil.which(f"python{version}"), *sorted(installed.glob(f"{version}.*/bin/python"))):
        # pyenv puts commands on the PATH that only say that they are not switched on
        if command and _output([command, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]) == version:
            return str(command)
    return None


def check(python, version, torch):
    """What the tests say on one Python and one torch, in a few words."""
    environment = FOLDER / f"python{version}-torch{torch}"
    shutil.rmtree(environment, ignore_errors=True)
    log = FOLDER / f"{environment.name}.log"
    command = str(environment / "bin" / "python")
    try:
        with log.open("w") as report:
            subprocess.run([python, "-m", "venv", environment], stdout=report, stderr=report, check=True)
            wanted = "torch" if torch == NEWEST else f"torch=={torch}"
            install = [command, "-m", "pip", "install", "--disable-pip-version-check", wanted, str(ROOT), *NEEDED]
            if subprocess.run(install, stdout=report, stderr=report).returncode:
                absent = f"No matching distribution found for {wanted}" in log.read_text()
                return "pip has no such torch for it" if absent else f"FAILED to install, see {log.relative_to(ROOT)}"
            release = _output([command, "-c", "import torch; print(torch.__version__)"])
            tests = [command, "-m", "pytest", "-p", "no:cacheprovider", "tests/supcl"]
            failed = subprocess.run(tests, stdout=report, stderr=report, cwd=ROOT).returncode
        summary = log.read_text().strip().splitlines()[-1]  # "120 passed in 30.1s"
        return f"{'FAILED' if failed else 'passed'} on {release}: {summary}"
    finally:
        shutil.rmtree(environment, ignore_errors=True)


def _output(command):
    result = subprocess.run(command, capture_output=True, text=True)
    return None if result.returncode else result.stdout.strip()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", nargs="+", default=[oldest_torch(), NEWEST], help="releases to try, for example 2.2 newest")
    releases = parser.parse_args(arguments).torch
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(f"{'Python':<8}{'torch':<8}result", flush=True)
    results = []
    for version in PYTHONS:
        python = find_python(version)
        for torch in releases:
            results.append(check(python, version, torch) if python else "not on this machine")
            print(f"{version:<8}{torch:<8}{results[-1]}", flush=True)
    return int(any(result.startswith("FAILED") for result in results))


if __name__ == "__main__":
    sys.exit(main())
