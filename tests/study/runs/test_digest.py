"""A function's digest is the same in every process, and another as soon as the function does something else."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

from study.methods import METHODS
from study.runs.digest import Undigestible, digest

NOTEBOOK = '''
import torch
import torch.nn.functional as F
from functools import partial

scale, offsets, names = torch.tensor([2.0, 3.0]), {"a": 1, "b": [0.5]}, {"pull", "push", "turn"}

class Shift:
    by = 1

    def __init__(self, power):
        self.power = power

def helper(x, power=2):
    return x ** power if power else again(x)

def again(x):
    return helper(x, power=1)

def objective_of(factor):
    def objective(outputs, batch, weight, *, epsilon=0.1):
        """What is minimised."""
        seen = [n for n in names if n in {"pull", "push"}]
        return F.relu(helper(outputs) * factor * weight) + scale + epsilon + offsets["a"] + Shift.by + shift.power + len(seen)
    return objective

shift = Shift(4)
unused = 1
value = partial(objective_of(3), weight=0.5)
'''


def from_notebook(source=NOTEBOOK, name="<cell>"):
    """`value` of a notebook with this source."""
    cells = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), cells)
    return cells["value"]


@pytest.mark.parametrize(
    "old, new",
    [
        ("x ** power if", "x * power if"),  # a function that it calls
        ("power=1", "power=3"),  # one that this one calls
        ("power=2", "power=2.0"),
        ("epsilon=0.1", "epsilon=0.2"),
        ("objective_of(3)", "objective_of(4)"),
        ("weight=0.5", "weight=0.6"),
        ("[2.0, 3.0]", "[2.0, 3.5]"),
        ('"b": [0.5]', '"b": [0.6]'),
        ('"turn"', '"tilt"'),
        ("by = 1", "by = 2"),
        ("Shift(4)", "Shift(5)"),
        ("self.power = power", "self.power = -power"),
        ("F.relu", "F.gelu"),
        ('in {"pull", "push"}', 'in {"pull", "turn"}'),
        ("+ epsilon", "- epsilon"),
    ],
)
def test_whatever_a_notebook_s_function_does_or_uses_counts(old, new):
    assert old in NOTEBOOK
    assert digest(from_notebook(NOTEBOOK.replace(old, new))) != digest(from_notebook())


@pytest.mark.parametrize(
    "source",
    [
        "# a title\n\n\n" + NOTEBOOK,
        NOTEBOOK.replace("        return x", "        # why\n        return x"),
        NOTEBOOK.replace("unused = 1", "unused = 2\nanother = lambda: open('/etc/passwd')"),
    ],
    ids=["moved", "comment", "what it does not use"],
)
def test_where_a_function_stands_and_what_is_said_about_it_does_not_count(source):
    assert digest(from_notebook(source, "/tmp/ipykernel_1/2.py")) == digest(from_notebook())


def test_it_is_the_same_in_another_process_whatever_the_order_of_its_sets():
    script = "import test_digest as t; print(t.digest(t.from_notebook()))"
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
        printed = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
        assert printed.stdout.strip() == digest(from_notebook())


def test_methods_of_the_registry_count_by_name_and_settings():
    def of(**settings):
        return digest(METHODS["SupCon"].fields(**settings)["objective"])

    assert of() == of(temperature=0.1) != of(temperature=0.2)


def test_models_and_arrays_count_by_their_content():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.1))
    first = digest(lambda batch: model(batch))
    assert first == digest(lambda batch: model(batch))
    with torch.no_grad():
        model[0].weight[0, 0] += 1
    second = digest(lambda batch: model(batch))
    model[2].p = 0.2
    assert len({first, second, digest(lambda batch: model(batch))}) == 3
    x = np.arange(6.0)
    contents = [x, x[::-1], x.reshape(2, 3), x.astype("float32"), torch.from_numpy(x), x.tolist(), tuple(x), list(map(str, x))]
    assert len({digest(content) for content in contents}) == len(contents)
    assert digest(x[::2]) == digest(x[::2].copy())


def test_a_file_that_a_function_names_counts_by_its_content_wherever_it_lies(tmp_path):
    def of(folder, content):
        file = tmp_path / folder / "weights.pt"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        path = str(file)
        return digest(lambda batch: use(path, batch)), digest(lambda batch: use(file, batch))

    assert of("here", b"1") == of("there", b"1")
    assert not set(of("here", b"1")) & set(of("here", b"2"))


def use(path, batch):
    return path, batch


def reads():
    return open("somewhere")


def reads_deep(x):
    return [reads() for _ in x]


def imports():
    import test_digest  # has no version

    return test_digest


LOCK, ITERATOR, FOLDER = threading.Lock(), (n for n in range(3)), os.path.dirname(__file__)


@pytest.mark.parametrize(
    "value, why",
    [
        (reads, "reads uses open"),
        (reads_deep, "reads uses open"),
        (imports, "test_digest has no version"),
        (lambda: LOCK, "lock cannot be taken apart"),
        (lambda: next(ITERATOR), "generator cannot be taken apart"),
        (lambda: FOLDER, "is a folder or no file yet"),
    ],
)
def test_what_cannot_be_seen_through_is_refused(value, why):
    with pytest.raises(Undigestible, match=why):
        digest(value)
