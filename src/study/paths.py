"""Where things are, whatever the working directory: ROOT, the project's folder, and the folder of the data sets."""

import os
from pathlib import Path


def project():
    """The project's folder: the one this source stands in or, where it was installed elsewhere, the nearest folder with a
    dvc.yaml from the working directory upwards. Raises FileNotFoundError if there is none."""
    here = Path.cwd()
    for folder in (Path(__file__).resolve().parents[2], here, *here.parents):
        if (folder / "dvc.yaml").exists():
            return folder
    raise FileNotFoundError(
        f"the project's folder is not known: study is installed in {Path(__file__).parent}, and no folder from {here} upwards "
        "holds a dvc.yaml. Run in a clone of the project, or install it from there with `pip install -e .`."
    )


def data_folder():
    """Where data sets lie: the environment variable SUPCL_DATA, or else data/ in the project's folder."""
    if folder := os.environ.get("SUPCL_DATA"):
        return Path(folder).expanduser()
    try:
        return project() / "data"
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} Or name the folder of the data sets in the environment variable SUPCL_DATA.") from None


def __getattr__(name):
    if name == "ROOT":  # looked for when it is asked for: study.data can be imported outside of any project
        return project()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def existing(path, key):
    """path as a Path. Raises FileNotFoundError that names the notebook which writes it."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. The notebook {key} writes it: run it first, with the same parameters.")
    return path
