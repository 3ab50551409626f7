"""The one registry of methods: whatever goes through all methods, or asks something about one, reads METHODS.

A method is an objective, a function of the model's outputs and the batch, and a few words about it. How a new one is added:
CONTRIBUTING.md.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from supcl.losses import clce_loss, genscl_loss, supcon_loss


def cross_entropy(outputs, batch, *, label_smoothing):
    return F.cross_entropy(outputs.logits, batch.labels, label_smoothing=label_smoothing)


def supcon(outputs, batch, *, temperature, form):
    z, labels = outputs.projection, batch.labels
    return supcon_loss(z, labels, temperature=temperature, form=form, **batch.contrasts(z, labels))


def joint(outputs, batch, *, weight, temperature, hardness, positives, applied_to):
    """SCHaNe's released objective, and CLCE's: (1 - weight) * cross-entropy + weight * contrastive."""
    z, labels = getattr(outputs, applied_to), batch.labels
    settings = {"weight": weight, "temperature": temperature, "hardness": hardness, "positives": positives}
    return clce_loss(outputs.logits, z, labels, **settings, **batch.contrasts(z, labels))


def genscl(outputs, batch, *, temperature, teacher=None):
    """With a teacher, a function of the batch that gives label distributions (N, C), the loss on these is added."""
    z, kinds = outputs.projection, [batch.label_distributions]
    if teacher:
        with torch.no_grad():
            kinds.append(teacher(batch))
    return sum(genscl_loss(z, q, temperature=temperature, **batch.contrasts(z, q)) for q in kinds)


@dataclass(frozen=True, kw_only=True)
class Method:
    """What the study needs to know of a method.

    name           in tables and figures.
    key            of its notebook, and of its folder in results/.
    objective      (Outputs, Batch, *, its settings) -> scalar loss. Keyword arguments with a default are no settings.
    settings       {name: value} of all settings, as its paper or released code has them.
    classifier     what predicts: "own", the model's linear classifier, trained by the objective; or "probe", a linear classifier
                   fitted afterwards on the frozen encoder, the second stage of two-stage methods.
    tried          the notebook's parameter that tuning tries beside the learning rate.
    colour         in every figure, as "#rrggbb".
    needs_teacher  whether a run has a teacher of its own draw.

    Raises ValueError that names what a method lacks.
    """

    name: str
    key: str
    objective: Callable
    settings: dict
    classifier: str
    tried: str
    colour: str
    needs_teacher: bool = False

    def __post_init__(self):
        parameters = inspect.signature(self.objective).parameters.values()
        needed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        if set(needed) != set(self.settings):
            raise ValueError(f"{self.name} has settings {', '.join(self.settings)}; its objective takes {', '.join(needed)}.")
        if self.classifier not in ("own", "probe"):
            raise ValueError(f'{self.name} has classifier {self.classifier!r}; expected "own" or "probe".')
        if not re.fullmatch("#[0-9a-f]{6}", self.colour):
            raise ValueError(f'{self.name} has colour {self.colour!r}; expected six hexadecimal digits such as "#0072b2".')

    def fields(self, **changes):
        """Fields of a runs.Run that make it one of this method, with some settings changed. A `teacher` goes to the objective
        alone. Raises TypeError for an unknown setting."""
        settings = self.settings | {name: value for name, value in changes.items() if name != "teacher"}
        if unknown := settings.keys() - self.settings.keys():
            raise TypeError(f"{self.name} has no setting {', '.join(sorted(unknown))}; expected {', '.join(self.settings)}.")
        objective = partial(self.objective, **(settings | changes))
        return {"method": self.name, "objective": objective, "classifier": self.classifier, "settings": settings}


def registry(*methods):
    """{name: Method}, in the order of tables and figures. Raises ValueError where two methods share a name, key or colour."""
    for what in ("name", "key", "colour"):
        values = [getattr(method, what) for method in methods]
        if twice := {value for value in values if values.count(value) > 1}:
            raise ValueError(f"several methods have the {what} {', '.join(sorted(twice))}; each needs its own.")
    return {method.name: method for method in methods}


_JOINT = {"weight": 0.9, "temperature": 0.5, "hardness": 1.0}  # README and code of GLA-IR/SCHaNe
METHODS = registry(  # colours: Okabe and Ito's, which colour-blind readers can tell apart
    Method(
        name="CE", key="cross_entropy", objective=cross_entropy, settings={"label_smoothing": 0.0}, classifier="own",
        tried="label_smoothing", colour="#4d4d4d",
    ),
    Method(
        name="SupCon", key="supcon", objective=supcon, settings={"temperature": 0.1, "form": "out"}, classifier="probe",
        tried="temperature", colour="#0072b2",
    ),
    Method(
        name="SCHaNe", key="schane", objective=joint, settings=_JOINT | {"positives": "mean", "applied_to": "projection"},
        classifier="own", tried="hardness", colour="#d55e00",
    ),
    Method(
        name="CLCE", key="clce", objective=joint, settings=_JOINT | {"positives": "sum", "applied_to": "embedding"},
        classifier="own", tried="loss_weight", colour="#009e73",
    ),
    Method(
        name="GenSCL", key="genscl", objective=genscl, settings={"temperature": 0.1}, classifier="probe", tried="temperature",
        colour="#aa4499", needs_teacher=True,
    ),
)  # fmt: skip
