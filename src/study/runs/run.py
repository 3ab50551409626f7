"""What a training run is: the Run that describes it, the Trained model that measurements get, and the Outcome."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from study.probes import evaluation
from study.runs.setup import Setup, frozen_maps
from study.training.contrasts import QueueSettings
from study.training.optimisation import OPTIMIZERS

TRAINED_ON = ("few-shot", "full", "features")


def trained_on(shots):
    """The fields trained_on and shots of a Run, for images per class as the notebooks have them: a number, or "full"."""
    return {"trained_on": "full", "shots": None} if shots == "full" else {"trained_on": "few-shot", "shots": shots}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run and its evaluation.

    method         name in tables; objective, classifier and settings: as Method.fields gives them, or a notebook's own.
    variant        what kind of run it is, in words without numbers: those are in settings.
    trained_on     "few-shot": the whole encoder is fine-tuned on `shots` images of each class. "full": on all training images.
                   "features": an MLP is trained on the frozen features of all training images.
    objective      (Outputs, Batch) -> loss.
    classifier     "own": the model's linear classifier, trained by the objective. "probe": a linear classifier fitted
                   afterwards on the frozen encoder, the second stage of two-stage methods.
    evaluate_on    "test": the metrics are of the test images, but for `validation_accuracy`. "validation": test images stay
                   sealed to the end, and all metrics are of validation images.
    mix            see training.loop.train, as for queue.
    optimizer      a name in OPTIMIZERS. None: the recipe's for the whole encoder, "adamw" on features.
    batch_size     None: the setup's; as weight_decay.
    crop           smallest share of an image's area that a random crop keeps, for fine-tuning; None: the recipe's.
    draw           (splits: "train" and "validation" -> indices, labels (N,) of all training images, seed) -> (indices (n,),
                   labels (n,)): the images to train on and the labels that the run is given, right or wrong. None: the draw of
                   this seed with `shots` of each class, or all training images. Evaluation is on images of the classes among
                   these labels.
    augment        (size, flips) -> a function of a batch, for fine-tuning; None: the recipe's, with `crop` if there is one.
    extra_metrics  (Trained, inputs (M, ...), labels (M,)) -> {metric: value}, more to measure on the evaluated images.
    epoch_metrics  the same, on validation images after every epoch.
    settings       the method's own, for the record; with learning_rate, epochs and the rest they go into the table.
    curve          also record accuracy of the nearest neighbours on validation images after every epoch of fine-tuning.
    keep           also return the embeddings of the evaluated images, and the model.
    """

    method: str
    variant: str
    objective: Callable
    trained_on: str
    shots: int | None = None
    seed: int
    learning_rate: float
    epochs: int
    classifier: str = "own"
    evaluate_on: str = "test"
    mix: Callable | None = None
    optimizer: str | None = None
    batch_size: int | None = None
    weight_decay: float | None = None
    crop: float | None = None
    queue: QueueSettings | None = None
    draw: Callable | None = None
    augment: Callable | None = None
    extra_metrics: Callable | None = None
    epoch_metrics: Callable | None = None
    settings: dict = field(default_factory=dict)
    curve: bool = False
    keep: bool = False

    def __post_init__(self):
        for name, allowed in (
            ("trained_on", TRAINED_ON),
            ("classifier", ("own", "probe")),
            ("evaluate_on", ("validation", "test")),
            ("optimizer", (None, *OPTIMIZERS)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {allowed}.")
        if (self.trained_on == "few-shot") != isinstance(self.shots, int | np.integer):
            expected = "a number of images per class" if self.trained_on == "few-shot" else "None"
            raise ValueError(f"shots is {self.shots!r} of a run trained on {self.trained_on}; expected {expected}.")
        if any(character.isdigit() for character in self.variant):
            raise ValueError(f"variant is {self.variant!r}; expected words without numbers, and the numbers in settings.")


@dataclass(frozen=True)
class Trained:
    """The model of a run, and what reads it out: what extra_metrics and epoch_metrics get."""

    run: Run
    setup: Setup
    model: torch.nn.Module  # in eval mode
    prepare: Callable  # images or features as `inputs` below -> what the model takes
    inputs: torch.Tensor  # (N, ...), or ImageFiles, it was trained on; where there are many, some of them
    labels: np.ndarray  # (N,) that it was trained with

    def outputs(self, inputs):
        """Embeddings (M, D) and logits (M, C) of inputs, as numpy arrays."""
        return evaluation.outputs_of(self.model, inputs, self.prepare)

    def test_outputs(self, images):
        """The outputs of the test images, faster: what frozen stages make of them is computed once for all runs, if their weights
        were loaded and the images are in memory."""
        frozen = getattr(self.model.encoder, "frozen_stages", 0) and self.setup.weights != "none"
        if not frozen or not isinstance(images, torch.Tensor):
            return self.outputs(images)
        maps = frozen_maps(self.setup, images)
        return evaluation.outputs_of(self.model, maps, prepare=lambda part: part, forward=self.model.after_frozen)

    @cached_property
    def embeddings(self):
        """(N, D) of `inputs`."""
        return self.outputs(self.inputs)[0]

    @cached_property
    def probe(self):
        return evaluation.linear_probe(self.embeddings, self.labels)

    def probabilities(self, inputs):
        """(M, C) by the run's classifier, a column for each class; 0 or nearly 0 for classes that it was not trained on."""
        embeddings, logits = self.outputs(inputs)
        if self.run.classifier == "own":
            return torch.from_numpy(logits).softmax(1).numpy()
        p = np.zeros_like(logits)
        p[:, self.probe.classes_] = self.probe.predict_proba(embeddings)
        return p

    def neighbours(self, embeddings):
        """Predictions (M,) for embeddings (M, D) by the nearest of the model's own training images."""
        return evaluation.nearest_neighbours(self.embeddings, self.labels, embeddings)


@dataclass
class Outcome:
    run: Run
    metrics: dict  # name -> value
    seconds: float  # of training
    losses: list  # per epoch
    curve: list  # validation accuracy per epoch, in percent; empty unless run.curve
    predictions: np.ndarray  # (N,) of the evaluated images by the linear probe, the read-out that all methods share
    epoch_metrics: dict = field(default_factory=dict)  # name -> a value per epoch
    registered: dict = field(default_factory=dict)  # the claims that were written down when the run was made: see registration
    embeddings: np.ndarray | None = None  # (N, D) of the evaluated images, with run.keep
    model: torch.nn.Module | None = None  # in eval mode, with run.keep
