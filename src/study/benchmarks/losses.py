"""What a loss costs: seconds and peak memory of one forward and backward pass, ours beside other implementations.

python -m study.benchmarks.losses (`make bench`) prints every target of the losses, what was measured, and whether it was met. All
on the CPU, in float32, with as many threads as torch takes by itself.
"""

import argparse
import logging
import math
import multiprocessing
import random
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import SupConLoss

from study.benchmarks import dense
from supcl import losses

DIM, CLASSES = 128, 100  # what the targets are stated for
BUDGET = 8e9  # bytes; a contestant that would need more is not run
WARM_UP = 256  # rows of the first pass in a fresh process, which is not measured

OURS, DENSE, COMPILED, PEER, FLOOR = "ours", "dense", "dense, compiled", "pytorch-metric-learning", "three matrix products"
# How each loss is called in a module that has it, ours or the dense one, with its settings written out.
CALLS = {
    "SupCon": lambda module, batch: module.supcon_loss(batch.embeddings, batch.labels, temperature=0.1),
    "SCHaNe": lambda module, batch: module.schane_loss(batch.embeddings, batch.labels, temperature=0.5, hardness=1.0),
    "CLCE": lambda module, batch: module.clce_loss(batch.logits, batch.embeddings, batch.labels, weight=0.9, temperature=0.5),
    "GenSCL": lambda module, batch: module.genscl_loss(batch.embeddings, batch.distributions, temperature=0.1),
}


class Batch(NamedTuple):
    embeddings: torch.Tensor  # (N, D)
    logits: torch.Tensor  # (N, C)
    labels: torch.Tensor  # (N,), each class at least twice
    distributions: torch.Tensor  # (N, C), each a mix of two classes


class Cost(NamedTuple):
    bytes: float  # peak above the inputs; nan if not run
    seconds: float  # median over rounds; nan if not run
    rounds: int


def make_batch(n, dim=DIM, classes=CLASSES, seed=0):
    """Random embeddings with balanced labels in random order."""
    draw = torch.Generator().manual_seed(seed)
    classes = min(classes, n // 2)
    labels = (torch.arange(n) % classes)[torch.randperm(n, generator=draw)]
    mixed = 0.7 * F.one_hot(labels, classes) + 0.3 * F.one_hot(labels.roll(1), classes)
    return Batch(torch.randn(n, dim, generator=draw), torch.randn(n, classes, generator=draw), labels, mixed)


def contestant(implementation, loss="SupCon"):
    """A function of a batch that runs one forward and backward pass. FLOOR only multiplies: similarities, and their products
    with the embeddings for the two sides of each pair, the least that a dense pass does. PEER has SupCon alone."""
    if implementation == FLOOR:
        return _three_products
    if implementation == PEER:
        peer = SupConLoss(temperature=0.1)
        return partial(_forward_backward, lambda batch: peer(batch.embeddings, batch.labels))
    call = partial(CALLS[loss], {OURS: losses, DENSE: dense, COMPILED: dense}[implementation])
    return partial(_forward_backward, _compiled(call) if implementation == COMPILED else call)


def compiler_problem():
    """Why torch.compile does not work here, in a line; None if it does."""
    try:
        _compiled(lambda x: x + 1)(torch.ones(2))
    except Exception as error:  # whatever is missing, a compiler or Python's headers
        return str(error).strip().splitlines()[0]
    return None


def side_by_side(steps, rounds):
    """Seconds of each step: {name: function} to {name: list of `rounds` seconds}.

    Each runs once unmeasured. Then all take turns, so that a slow moment of the machine meets all of them, each round in another
    order, so that none always follows one that has filled the caches.
    """
    for step in steps.values():
        step()
    times, shuffled = {name: [] for name in steps}, random.Random(0)
    for _ in range(rounds):
        for name in shuffled.sample(list(steps), len(steps)):
            times[name].append(_seconds(steps[name]))
    return times


def cost(implementation, loss, n, dim=DIM, classes=CLASSES, repeat=0.0, estimate=0, budget=BUDGET):
    """Cost of a contestant, measured in a process of its own, which repeats the pass until `repeat` seconds are over. Not run
    if `estimate` bytes are more than `budget` bytes, and given up if the machine has less."""
    measured = None
    if estimate <= budget:
        measured = in_own_process(_cost_here, implementation, loss, n, dim, classes, repeat)
    return measured or Cost(math.nan, math.nan, 0)


def costs(implementation, loss, sizes, dim=DIM, classes=CLASSES, repeat=0.0, budget=BUDGET):
    """{n: Cost} for growing sizes. Memory grows at most with the square, so each size tells what the next may need; after
    one that was not run none is."""
    found, estimate = {}, 0
    for previous, n in zip([sizes[0], *sizes], sizes, strict=False):
        found[n] = cost(implementation, loss, n, dim, classes, repeat, estimate * (n / previous) ** 2, budget)
        estimate = found[n].bytes
    return found


def in_own_process(function, *arguments):
    """function(*arguments) of a fresh process with as many threads as this one; None if memory does not suffice."""
    # On Linux the process is forked from a server that has imported torch, which saves seconds each time.
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["torch", "pytorch_metric_learning.losses"])
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except (MemoryError, BrokenProcessPool):  # the second if the system has killed it
            return None
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # torch's way to say MemoryError
                raise
            return None


def peak_bytes(function):
    """Bytes by which this process's memory rose, at its highest, while function() ran. Outside Linux the highest before it
    counts as the start, so only a process that has held little before gives a true value."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # the highest is now what is in use
    start = _highest()
    function()
    return _highest() - start


def _highest():
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss would start at the parent's
        return _high_water(status.read_text())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _high_water(status):
    """Bytes in the line "VmHWM:   1234 kB" of Linux's /proc/self/status."""
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def _cost_here(implementation, loss, n, dim, classes, repeat):
    step = contestant(implementation, loss)
    step(make_batch(WARM_UP, dim, classes))  # loads libraries, and compiles
    step = partial(step, make_batch(n, dim, classes))
    times = []
    peak = peak_bytes(lambda: times.append(_seconds(step)))
    while sum(times) < repeat:
        times.append(_seconds(step))
    return Cost(peak, median(times), len(times))


def _seconds(step):
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _compiled(function):
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it would warn that there is no GPU
    return torch.compile(function, dynamic=True)  # compiled once for all sizes


def _forward_backward(loss, batch):
    leaves = {name: getattr(batch, name).detach().requires_grad_() for name in ("embeddings", "logits")}
    loss(batch._replace(**leaves)).backward()


def _three_products(batch):
    z = batch.embeddings
    s = z @ z.T
    s @ z, s.T @ z


class Target(NamedTuple):
    """A line of the table."""

    what: str
    value: float  # nan where nothing could be measured
    limit: float  # the value is to be at most this; nan where there is no target
    detail: str

    def __str__(self):
        limit = "" if math.isnan(self.limit) else f"<= {self.limit:g}"
        if math.isnan(self.value):
            return f"{self.what:<56}{limit:>8}{'-':>9}  not measurable: {self.detail}"
        met = "" if math.isnan(self.limit) else "met" if self.value <= self.limit else "NOT MET"
        return f"{self.what:<56}{limit:>8}{self.value:>9.3g}  {met:<8}{self.detail}"


def ratio(one, other):
    """one / other; nan if the meter saw nothing of the other, as when memory that was free already suffices for a pass."""
    return one / other if other > 0 else math.nan


def speed(n, rounds):
    """At one large batch: every contestant beside three matrix products, and SupCon beside the peer."""
    problem = compiler_problem()
    if problem:
        _progress(f"dense, compiled: not run, torch.compile does not work here: {problem}")
    names = [(FLOOR, "SupCon"), (PEER, "SupCon"), *((i, loss) for i in (OURS, DENSE) for loss in CALLS)]
    names += [] if problem else [(COMPILED, loss) for loss in CALLS]
    _progress(f"{len(names)} contestants side by side at N = {n:,}, {rounds} rounds")
    times = _medians(names, n, rounds)
    floor, limits = times[FLOOR, "SupCon"], {"SupCon": 0.95, "GenSCL": 0.95, "SCHaNe": 1.2}
    ours, peer = times[OURS, "SupCon"], times[PEER, "SupCon"]
    yield Target("SupCon, ours / pytorch-metric-learning", ratio(ours, peer), 1 / 5, f"{ratio(peer, ours):.1f} times faster")
    for (implementation, loss), seconds in times.items():
        limit = limits.get(loss, math.nan) if implementation == OURS else math.nan
        if implementation != FLOOR:
            detail = f"{1000 * seconds:.0f} ms / {1000 * floor:.0f} ms"
            yield Target(f"{loss}, {implementation} / three matrix products", ratio(seconds, floor), limit, detail)


def everyday(n, rounds):
    """At a small batch: each loss beside its dense form."""
    _progress(f"ours and dense side by side at N = {n:,}, {rounds} rounds")
    times = _medians([(i, loss) for i in (OURS, DENSE) for loss in CALLS], n, rounds)
    for loss in CALLS:
        ours, plain = times[OURS, loss], times[DENSE, loss]
        yield Target(f"{loss}, ours / dense", ratio(ours, plain), 1, f"{1000 * ours:.2f} ms / {1000 * plain:.2f} ms")


def growth(n, factor):
    """Memory at factor * n rows, and how time and memory grow on the way there. Every cost in a process of its own."""
    large = factor * n
    for loss in CALLS:
        _progress(f"{loss} at N = {n:,} and {large:,}, each in its own process")
        small, big = cost(OURS, loss, n, repeat=2), cost(OURS, loss, large)
        yield Target(f"{loss}, MB above the inputs at N = {large:,}", big.bytes / 1e6, 400, "" if big.rounds else "no memory")
        detail = f"{small.seconds:.2f} s, {big.seconds:.1f} s"
        yield Target(f"{loss}, growth of time from N = {n:,}", ratio(big.seconds, small.seconds), factor**2, detail)
        detail = f"{small.bytes / 1e6:.0f} MB, {big.bytes / 1e6:.0f} MB"
        yield Target(f"{loss}, growth of memory from N = {n:,}", ratio(big.bytes, small.bytes), factor, detail)


def _medians(names, n, rounds):
    batch = make_batch(n)
    steps = {name: partial(contestant(*name), batch) for name in names}
    return {name: median(times) for name, times in side_by_side(steps, rounds).items()}


def _progress(text):
    print(f"... {text}", file=sys.stderr, flush=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large-batch", type=int, default=4096, help="rows for the comparison with other implementations")
    parser.add_argument("--everyday-batch", type=int, default=256, help="rows for the comparison with the dense form")
    parser.add_argument("--growth-from", type=int, default=8192, help="rows from which growth is measured, eightfold")
    parser.add_argument("--rounds", type=int, default=9, help="rounds at the large batch; 20 times as many at the everyday one")
    options = parser.parse_args(arguments)
    sections = {
        f"N = {options.large_batch:,}, medians of {options.rounds} rounds": speed(options.large_batch, options.rounds),
        f"N = {options.everyday_batch:,}, medians of {20 * options.rounds} rounds": everyday(
            options.everyday_batch, 20 * options.rounds
        ),
        f"N = {options.growth_from:,} to {8 * options.growth_from:,}": growth(options.growth_from, 8),
    }
    threads = torch.get_num_threads()
    print(f"{threads} threads, float32, D = {DIM}, {CLASSES} classes, forward and backward, torch {torch.__version__}")
    for title, section in sections.items():
        print(f"\n{title:<56}{'target':>8}{'measured':>9}")
        for target in section:
            print(target, flush=True)


if __name__ == "__main__":
    main()
