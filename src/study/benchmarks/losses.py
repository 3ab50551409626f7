"""What a loss costs: seconds and peak memory of one forward and backward pass, ours beside other implementations.

python -m study.benchmarks.losses (`make bench`) prints every target of the losses, what was measured, and whether it was met. The
targets are stated for the CPU in float32, with as many threads as torch takes by itself. With --device cuda (`make bench
DEVICE=cuda`) the same lines are measured on a GPU at each precision, with the memory of each implementation and without targets.
"""

import argparse
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

from study.benchmarks.contestants import (
    CALLS,
    CLASSES,
    COMPILED,
    DENSE,
    DIM,
    FLOOR,
    FUSED,
    OURS,
    PEER,
    PRECISIONS,
    at_precision,
    contestant,
    make_batch,
    problem,
)

BUDGET = 8e9  # bytes; a contestant that would need more is not run
WARM_UP = 256  # rows of the first pass in a fresh process, which is not measured


class Cost(NamedTuple):
    bytes: float  # peak above the inputs; nan if not run
    seconds: float  # median over rounds; nan if not run
    rounds: int


class Machine(NamedTuple):
    """Where passes run, and at which of PRECISIONS."""

    device: str
    precision: str


CPU = Machine("cpu", "float32")  # what the targets are stated for


def side_by_side(steps, rounds, device="cpu"):
    """Seconds of each step: {name: function} to {name: list of `rounds` seconds}.

    Each runs once unmeasured. Then all take turns, so that a slow moment of the machine meets all of them, each round in another
    order, so that none always follows one that has filled the caches.
    """
    for step in steps.values():
        step()
    times, shuffled = {name: [] for name in steps}, random.Random(0)
    for _ in range(rounds):
        for name in shuffled.sample(list(steps), len(steps)):
            times[name].append(_seconds(steps[name], device))
    return times


def cost(implementation, loss, n, dim=DIM, classes=CLASSES, repeat=0.0, estimate=0, budget=BUDGET, machine=CPU):
    """Cost of a contestant, measured in a process of its own, which repeats the pass until `repeat` seconds are over. Not run
    if `estimate` bytes are more than `budget` bytes, and given up if the machine has less."""
    measured = None
    if estimate <= budget:
        measured = in_own_process(_cost_here, implementation, loss, n, dim, classes, repeat, machine)
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
        except (MemoryError, torch.OutOfMemoryError, BrokenProcessPool):  # the last if the system has killed it
            return None
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # torch's way to say MemoryError on a CPU
                raise
            return None


def peak_bytes(function, device="cpu"):
    """Bytes by which memory rose, at its highest, while function() ran: what torch has allocated on a GPU, or this process's
    memory. Outside Linux the latter's highest before counts as the start, so only a process that has held little gives a true
    value."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - start
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


def _cost_here(implementation, loss, n, dim, classes, repeat, machine):
    step, device = contestant(implementation, loss), machine.device
    with at_precision(machine.precision, device):
        step(make_batch(WARM_UP, dim, classes, **machine._asdict()))  # loads libraries, and compiles
        step = partial(step, make_batch(n, dim, classes, **machine._asdict()))
        times = []
        peak = peak_bytes(lambda: times.append(_seconds(step, device)), device)
        while sum(times) < repeat:
            times.append(_seconds(step, device))
    return Cost(peak, median(times), len(times))


def _seconds(step, device="cpu"):
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - start


def _wait(device):
    if device == "cuda":  # it works on while Python goes ahead
        torch.cuda.synchronize()


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


def speed(n, rounds, machine):
    """At one large batch: every contestant beside three matrix products, and SupCon beside the peer."""
    names = [(i, "SupCon") for i in (FLOOR, PEER, FUSED)] + [(i, loss) for i in (OURS, DENSE) for loss in CALLS]
    names += [(COMPILED, loss) for loss in CALLS if machine == CPU or loss == "SupCon"]  # to compile takes half a minute
    for implementation in (FUSED, COMPILED):
        if reason := problem(implementation):
            names = [name for name in names if name[0] != implementation]
            _progress(f"{implementation}: not run here: {reason}")
    _progress(f"{len(names)} contestants side by side at N = {n:,}, {rounds} rounds")
    times, peaks = _medians_and_peaks(names, n, rounds, machine)
    floor, limits = times[FLOOR, "SupCon"], {"SupCon": 0.95, "GenSCL": 0.95, "SCHaNe": 1.2}
    ours, peer = times[OURS, "SupCon"], times[PEER, "SupCon"]
    yield Target("SupCon, ours / pytorch-metric-learning", ratio(ours, peer), 1 / 5, f"{ratio(peer, ours):.1f} times faster")
    for (implementation, loss), seconds in times.items():
        limit = limits.get(loss, math.nan) if implementation == OURS else math.nan
        if implementation != FLOOR:
            detail = f"{1000 * seconds:.3g} ms / {1000 * floor:.3g} ms{peaks[implementation, loss]}"
            yield Target(f"{loss}, {implementation} / three matrix products", ratio(seconds, floor), limit, detail)


def everyday(n, rounds, machine):
    """At a small batch: each loss beside its dense form."""
    _progress(f"ours and dense side by side at N = {n:,}, {rounds} rounds")
    times, peaks = _medians_and_peaks([(i, loss) for i in (OURS, DENSE) for loss in CALLS], n, rounds, machine)
    for loss in CALLS:
        ours, plain = times[OURS, loss], times[DENSE, loss]
        detail = f"{1000 * ours:.2f} ms / {1000 * plain:.2f} ms{peaks[OURS, loss]}"
        yield Target(f"{loss}, ours / dense", ratio(ours, plain), 1.6 if n < 256 else 1.3, detail)


def growth(n, factor, machine):
    """Memory at factor * n rows, and how time and memory grow on the way there. Every cost in a process of its own."""
    large = factor * n
    for loss in CALLS:
        _progress(f"{loss} at N = {n:,} and {large:,}, each in its own process")
        small, big = cost(OURS, loss, n, repeat=2, machine=machine), cost(OURS, loss, large, machine=machine)
        memory = "" if big.rounds else "it did not fit into memory"
        yield Target(f"{loss}, MB above the inputs at N = {large:,}", big.bytes / 1e6, 400, memory)
        detail = f"{small.seconds:.2f} s, {big.seconds:.1f} s"
        yield Target(f"{loss}, growth of time from N = {n:,}", ratio(big.seconds, small.seconds), factor**2, detail)
        detail = f"{small.bytes / 1e6:.0f} MB, {big.bytes / 1e6:.0f} MB"
        yield Target(f"{loss}, growth of memory from N = {n:,}", ratio(big.bytes, small.bytes), factor, detail)


def _medians_and_peaks(names, n, rounds, machine):
    """Median seconds of each contestant, and on a GPU its peak memory, in words; elsewhere that takes a process each."""
    batch = make_batch(n, **machine._asdict())
    with at_precision(machine.precision, machine.device):
        steps = {name: partial(contestant(*name), batch) for name in names}
        times = {name: median(seconds) for name, seconds in side_by_side(steps, rounds, machine.device).items()}
        if machine.device == "cpu":
            return times, dict.fromkeys(names, "")
        return times, {name: f", {peak_bytes(step, machine.device) / 1e6:.0f} MB" for name, step in steps.items()}


def _progress(text):
    print(f"... {text}", file=sys.stderr, flush=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, help="float32 on the CPU, all on a GPU unless named")
    parser.add_argument("--large-batch", type=int, default=4096, help="rows for the comparison with other implementations")
    parser.add_argument("--everyday-batches", type=int, nargs="+", default=[64, 256], help="rows beside the dense form")
    parser.add_argument("--growth-from", type=int, default=8192, help="rows from which growth is measured, eightfold")
    parser.add_argument("--rounds", type=int, default=9, help="rounds at the large batch; 20 times as many at the everyday ones")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda but torch sees no CUDA GPU here; expected a machine with one, or --device cpu.")
    hardware = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{hardware}, D = {DIM}, {CLASSES} classes, forward and backward, torch {torch.__version__}")
    for precision in options.precisions or (PRECISIONS if options.device == "cuda" else ["float32"]):
        machine, n = Machine(options.device, precision), options.large_batch
        _print(f"{precision}, N = {n:,}, medians of {options.rounds} rounds", speed(n, options.rounds, machine), machine)
        for n in options.everyday_batches:
            title = f"{precision}, N = {n:,}, medians of {20 * options.rounds} rounds"
            _print(title, everyday(n, 20 * options.rounds, machine), machine)
        n = options.growth_from
        _print(f"{precision}, N = {n:,} to {8 * n:,}", growth(n, 8, machine), machine)


def _print(title, targets, machine):
    print(f"\n{title:<56}{'target' if machine == CPU else '':>8}{'measured':>9}")
    for target in targets:
        print(target if machine == CPU else target._replace(limit=math.nan), flush=True)


if __name__ == "__main__":
    main()
