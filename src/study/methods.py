"""The methods as they were reported, for stages that change one thing about them: each with the settings that its own notebook
chose on validation images, read back from that notebook's table of runs."""

import inspect
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch.nn.functional as F

from study import tables
from study.paths import existing
from study.runs import Run
from supcl.losses import clce_loss, supcon_loss


def as_reported(results, method):
    """The reported Run of a method, seed 0, at its smallest number of shots ("full" is the largest). Others are made from it:
    dataclasses.replace(as_reported(out, "CE"), variant="noise 0.2", seed=3, ...). Settings of the objective itself are changed by
    with_settings."""
    stage = STAGES[method]
    runs = pd.read_csv(existing(f"{results}/{stage}/runs.csv", stage))
    reported = runs[(runs.method == method) & (runs.variant == "main") & (runs.seed == 0)]
    row = reported.loc[reported.shots.replace("full", np.inf).astype(float).idxmin()]
    record = json.loads(row.settings)
    of_run = {name: record[name] for name in ("learning_rate", "epochs", "classifier")}
    shots = "full" if row.shots == "full" else int(row.shots)
    run = Run(method, "main", OBJECTIVES[method], shots, seed=0, **of_run)
    return with_settings(run, **{name: record[name] for name in _settings_of(method)})


def with_settings(run, **settings):
    """The run with some settings of its objective changed, in the objective and in the record."""
    settings, known = run.settings | settings, _settings_of(run.method)
    if unknown := settings.keys() - set(known):
        raise TypeError(f"{run.method} has no setting {', '.join(sorted(unknown))}; expected {', '.join(known)}.")
    return replace(run, objective=partial(OBJECTIVES[run.method], **settings), settings=settings)


def cross_entropy(outputs, batch, *, label_smoothing):
    return F.cross_entropy(outputs.logits, batch.labels, label_smoothing=label_smoothing)


def supcon(outputs, batch, *, temperature, form):
    z, labels = outputs.projection, batch.labels
    return supcon_loss(z, labels, temperature=temperature, form=form, **batch.contrasts(z, labels))


def schane(outputs, batch, *, weight, temperature, hardness, positives, applied_to):
    """SCHaNe's released objective, and CLCE's: (1 - weight) * cross-entropy + weight * contrastive."""
    embeddings = getattr(outputs, applied_to)
    settings = {"weight": weight, "temperature": temperature, "hardness": hardness, "positives": positives}
    return clce_loss(outputs.logits, embeddings, batch.labels, **settings, **batch.contrasts(embeddings, batch.labels))


OBJECTIVES = {"CE": cross_entropy, "SupCon": supcon, "SCHaNe": schane, "CLCE": schane}
STAGES = {method: tables.STAGES[method] for method in OBJECTIVES}


def _settings_of(method):
    parameters = inspect.signature(OBJECTIVES[method]).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
