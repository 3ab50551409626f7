"""How fast training is: what an objective adds to a step, what a step costs beside the encoder's own passes, and what a second
process brings.

python -m study.benchmarks.training (part of `make bench`) prints every target, what was measured, and whether it was met. All on
the CPU, in float32, on images of the laptop profile's size.
"""

import argparse
from functools import partial
from statistics import median

import torch

from study import data
from study.benchmarks.losses import Target, in_own_process, side_by_side
from study.methods import METHODS
from study.training.compute import Compute, launch
from study.training.loop import Batch, train
from study.training.model import ImageEncoder, Model
from study.training.optimisation import Optimisation

ENCODER, CLASSES = "tf_efficientnet_lite0", 10
OBJECTIVES = {name: method.fields()["objective"] for name, method in METHODS.items()}


def optimisation(batch_size):
    return Optimisation(learning_rate=1e-5, weight_decay=0.05, epochs=1, batch_size=batch_size)


def new_model(encoder):
    encoder = ImageEncoder(encoder, "none")
    return Model(encoder, encoder.dim, CLASSES).train()


def objectives(encoder, batch, size, rounds):
    """A step of each objective beside one of CE, of the same model on the same images."""
    model = new_model(encoder)
    optimizer = optimisation(batch).new_optimizer(model)
    labels = torch.arange(batch) % CLASSES
    rows = Batch(torch.rand(batch, 1, size, size), labels, torch.nn.functional.one_hot(labels, CLASSES).float())

    def step(objective):
        loss = objective(model(rows.inputs), rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    times = side_by_side({name: partial(step, objective) for name, objective in OBJECTIVES.items()}, rounds)
    seconds = {name: median(measured) for name, measured in times.items()}
    for name in [name for name in OBJECTIVES if name != "CE"]:
        detail = f"{1000 * seconds[name]:.0f} ms / {1000 * seconds['CE']:.0f} ms"
        yield Target(f"a step of {name} / of CE", seconds[name] / seconds["CE"], 1.1, detail)


def from_memory(encoder, batch, size, rounds, steps=3):
    """Training with two augmented views beside the bare encoder's forward and backward passes on as many random tensors."""
    model, bare, inputs = new_model(encoder), ImageEncoder(encoder, "none").train(), torch.rand(batch, 1, size, size)

    def encode():
        for _ in range(steps):
            bare.zero_grad()
            bare(inputs).sum().backward()

    times = side_by_side({"train": partial(train_steps, model, batch, size, steps), "encoder": encode}, rounds)
    ours, floor = (median(times[name]) for name in ("train", "encoder"))
    rates = " / ".join(f"{steps * batch / seconds:.0f}" for seconds in (ours, floor))
    yield Target("training from memory / bare encoder", ours / floor, round(1 / 0.9, 3), f"{rates} images/s")


def two_processes(encoder, batch, size, rounds):
    """Images per second of one process with all threads, beside those of two processes with half of them each, on `batch` images
    a step and on twice as many, which is `batch` for each of two. Their start is not counted."""
    sizes, rates = (batch, 2 * batch), {"one": [], "two": []}
    measure = partial(images_per_second, encoder, sizes, size)
    for _ in range(rounds):
        rates["one"].append(in_own_process(measure))
        rates["two"].append(launch(measure, compute=Compute(world_size=2)))
    for rows, alone, shared in zip(sizes, zip(*rates["one"], strict=True), zip(*rates["two"], strict=True), strict=True):
        one, two = median(alone), median(shared)
        yield Target(f"images per second, one process / two, {rows} a step", one / two, 1, f"{one:.0f} / {two:.0f}")


def images_per_second(encoder, batches, size, steps=8):
    """Images per second that training takes in with each of these batch sizes, measured one after another."""
    model, rates = new_model(encoder), []
    for batch in batches:
        train_steps(model, batch, size, 1)
        rates.append(steps * batch / train_steps(model, batch, size, steps))
    return rates


def train_steps(model, batch, size, steps):
    """Seconds of so many steps of CE on batch // 2 pictures in memory, two views of each."""
    n = steps * (batch // 2)
    pictures, labels = torch.randint(256, (n, 1, 28, 28), dtype=torch.uint8), torch.arange(n) % CLASSES
    view, settings = data.Augment(size, flips=True), optimisation(batch // 2)
    return train(model, OBJECTIVES["CE"], pictures, labels, settings, view=view, views=2, seed=0).seconds


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default=ENCODER, help="a timm name")
    parser.add_argument("--batch", type=int, default=256, help="rows of a step, two views of each image")
    parser.add_argument("--image-size", type=int, default=32, help="pixels a side")
    parser.add_argument("--rounds", type=int, default=9, help="in which contestants take turns; a third as many for processes")
    options = parser.parse_args(arguments)
    size = options.encoder, options.batch, options.image_size
    print(f"{options.encoder}, {options.batch} images of {options.image_size} pixels a step, {torch.get_num_threads()} threads")
    print(f"\n{f'medians of {options.rounds} rounds':<56}{'target':>8}{'measured':>9}")
    for section, rounds in ((objectives, options.rounds), (from_memory, options.rounds), (two_processes, options.rounds // 3)):
        for target in section(*size, max(rounds, 1)):
            print(target, flush=True)


if __name__ == "__main__":
    main()
