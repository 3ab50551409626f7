"""What the benchmark says is what it measured. Nothing here asserts a time."""

import math
import os
import signal
from functools import partial

import pytest
import torch

from study.benchmarks import dense
from study.benchmarks import losses as benchmark
from study.benchmarks.losses import COMPILED, DENSE, FLOOR, OURS, PEER
from supcl import losses


def run_out_of_memory():
    raise MemoryError


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def ask_for_too_much():
    torch.empty(10**15)


@pytest.mark.parametrize("n", [4, 150, 256])
def test_every_row_of_a_batch_has_a_positive_and_a_negative(n):
    batch = benchmark.make_batch(n, dim=8)
    same = batch.labels[:, None] == batch.labels
    assert (same.sum(1) >= 2).all() and (~same).any(1).all()
    assert batch.embeddings.shape == (n, 8) and len(batch.logits) == len(batch.distributions) == n
    assert torch.allclose(batch.distributions.sum(1), torch.ones(n))


@pytest.mark.parametrize("loss", benchmark.CALLS)
def test_the_dense_form_has_the_value_and_gradient_of_the_loss(loss):
    batch = benchmark.make_batch(60, dim=8, classes=7)
    batch = batch._replace(**{name: getattr(batch, name).double() for name in ("embeddings", "logits", "distributions")})
    leaf = batch.embeddings.clone().requires_grad_()
    one, two = (benchmark.CALLS[loss](module, batch._replace(embeddings=leaf)) for module in (losses, dense))
    assert torch.allclose(one, two, rtol=1e-10)
    assert torch.allclose(torch.autograd.grad(one, leaf)[0], torch.autograd.grad(two, leaf)[0], rtol=1e-10, atol=1e-14)


def test_the_dense_form_sums_positives_as_the_loss_does():
    batch = benchmark.make_batch(60, dim=8, classes=7)
    z = batch.embeddings.double()
    one, two = (module.schane_loss(z, batch.labels, hardness=2.0, positives="sum") for module in (losses, dense))
    assert torch.allclose(one, two, rtol=1e-10)


def test_a_contestant_leaves_no_gradient_behind():
    batch = benchmark.make_batch(16, dim=8)
    for implementation in (OURS, DENSE, PEER, FLOOR):
        benchmark.contestant(implementation, "SupCon")(batch)
    assert all(tensor.grad is None and not tensor.requires_grad for tensor in batch)


def test_the_peer_computes_supcon():
    batch = benchmark.make_batch(60, dim=8, classes=7)
    ours = losses.supcon_loss(batch.embeddings, batch.labels, temperature=0.1)
    assert torch.allclose(ours, benchmark.SupConLoss(temperature=0.1)(batch.embeddings, batch.labels), rtol=1e-5)


def test_side_by_side_takes_turns_in_changing_order():
    calls = []
    times = benchmark.side_by_side({name: partial(calls.append, name) for name in "abc"}, rounds=9)
    rounds = [tuple(calls[k : k + 3]) for k in range(0, len(calls), 3)]  # the first is not measured
    assert len(rounds) == 10 and all(set(names) == set("abc") for names in rounds) and len(set(rounds)) > 1
    assert [len(seconds) for seconds in times.values()] == [9, 9, 9] and min(map(min, times.values())) >= 0


def test_memory_of_a_known_size_is_measured():
    assert 180e6 < benchmark.in_own_process(benchmark.peak_bytes, partial(torch.ones, 50_000_000)) < 260e6


def test_cost_counts_the_matrices_of_a_dense_form():
    measured = benchmark.cost(DENSE, "SupCon", 2048, dim=8)
    assert 2 * 4 * 2048**2 < measured.bytes < 20 * 4 * 2048**2
    assert measured.seconds > 0 and measured.rounds == 1


def test_cost_repeats_the_pass_for_as_long_as_asked():
    measured = benchmark.cost(OURS, "SupCon", 64, dim=8, repeat=0.2)
    assert measured.rounds > 1


@pytest.mark.parametrize("failing", [run_out_of_memory, be_killed, ask_for_too_much])
def test_a_process_without_enough_memory_gives_nothing(failing):
    assert benchmark.in_own_process(failing) is None


def test_other_errors_of_a_process_are_raised():
    with pytest.raises(RuntimeError, match="size of tensor"):
        benchmark.in_own_process(torch.add, torch.ones(2), torch.ones(3))


def test_a_contestant_over_budget_is_not_run():
    measured = benchmark.cost(DENSE, "SupCon", 10**6, estimate=4e12, budget=8e9)
    assert math.isnan(measured.bytes) and math.isnan(measured.seconds) and measured.rounds == 0


def test_sizes_after_the_budget_is_reached_are_not_run():
    found = benchmark.costs(DENSE, "SupCon", [512, 2048, 10**6, 2 * 10**6], dim=8, budget=1e9)
    assert [math.isnan(cost.bytes) for cost in found.values()] == [False, False, True, True]


def test_the_command_prints_every_target(capsys, monkeypatch):
    sizes = ["--large-batch", "64", "--everyday-batch", "32", "--growth-from", "64", "--rounds", "1"]
    monkeypatch.setattr(benchmark, "compiler_problem", lambda: "no compiler in this test")
    benchmark.main(sizes)
    printed = capsys.readouterr()
    table = [line for line in printed.out.splitlines() if " <= " in line]
    assert len(table) == 1 + 3 + 4 + 3 * 4 and all("met" in line.lower() for line in table)
    assert f"{COMPILED}: not run" in printed.err and "no compiler in this test" in printed.err
