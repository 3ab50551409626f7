"""Where things are, whatever the working directory."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"


def existing(path, stage):
    """path as a Path. Raises FileNotFoundError that names the notebook which writes it."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. {stage} writes it: run that notebook first, with the same parameters.")
    return path
