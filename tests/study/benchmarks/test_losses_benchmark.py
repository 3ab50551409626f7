"""What the benchmark says is what its meters read. Clock and memory are replaced wherever a test looks at a number."""

import math
import os
import re
import signal
from functools import partial

import pytest
import torch

from study.benchmarks import contestants, dense
from study.benchmarks import losses as benchmark
from study.benchmarks.contestants import COMPILED, DENSE, FLOOR, FUSED, OURS, PEER, PRECISIONS
from study.benchmarks.losses import CPU, Cost, Target
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
    for implementation in (OURS, DENSE, PEER, FLOOR) + (FUSED,) * (contestants.problem(FUSED) is None):
        benchmark.contestant(implementation, "SupCon")(batch)
    assert all(tensor.grad is None and not tensor.requires_grad for tensor in batch)


def test_the_peer_computes_supcon():
    batch = benchmark.make_batch(60, dim=8, classes=7)
    ours = losses.supcon_loss(batch.embeddings, batch.labels, temperature=0.1)
    assert torch.allclose(ours, contestants.SupConLoss(temperature=0.1)(batch.embeddings, batch.labels), rtol=1e-5)


@pytest.mark.skipif(contestants.problem(FUSED) is not None, reason="this torch has no linear_cross_entropy")
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_the_fused_form_has_the_value_and_gradient_of_the_loss(temperature):
    batch = benchmark.make_batch(300, dim=8, classes=7)
    leaf = batch.embeddings.double().requires_grad_()
    forms = losses.supcon_loss, contestants.fused_supcon_loss
    one, two = (form(leaf, batch.labels, temperature=temperature) for form in forms)
    assert torch.allclose(one, two, rtol=1e-10)
    assert torch.allclose(torch.autograd.grad(one, leaf)[0], torch.autograd.grad(two, leaf)[0], rtol=1e-8, atol=1e-12)


def test_a_torch_without_the_fused_form_is_said_to_be_so(monkeypatch):
    monkeypatch.delattr(torch.nn.functional, "linear_cross_entropy", raising=False)
    assert contestants.problem(FUSED) == f"torch {torch.__version__} does not have it"
    assert contestants.problem(DENSE) is None


@pytest.mark.parametrize("precision", PRECISIONS)
def test_passes_run_at_the_precision_asked_for(precision):
    dtype = PRECISIONS[precision]
    assert benchmark.make_batch(16, dim=8, precision=precision).embeddings.dtype == (dtype or torch.float32)
    before = torch.get_float32_matmul_precision()
    with contestants.at_precision(precision, "cpu"):
        assert torch.get_float32_matmul_precision() == ("high" if precision == "tf32" else "highest")
        assert torch.is_autocast_enabled("cpu") == (dtype is not None)
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (dtype or torch.float32)
    assert torch.get_float32_matmul_precision() == before and not torch.is_autocast_enabled("cpu")


def test_side_by_side_takes_turns_in_changing_order():
    calls = []
    times = benchmark.side_by_side({name: partial(calls.append, name) for name in "abc"}, rounds=9)
    rounds = [tuple(calls[k : k + 3]) for k in range(0, len(calls), 3)]  # the first is not measured
    assert len(rounds) == 10 and all(set(names) == set("abc") for names in rounds) and len(set(rounds)) > 1
    assert [len(seconds) for seconds in times.values()] == [9, 9, 9] and min(map(min, times.values())) >= 0


def test_peak_is_the_highest_reading_after_less_the_one_before(monkeypatch):
    readings = [100_000]
    monkeypatch.setattr(benchmark, "_highest", lambda: readings[-1])
    assert benchmark.peak_bytes(lambda: readings.append(350_000)) == 250_000
    assert benchmark.peak_bytes(lambda: None) == 0


def test_on_a_gpu_the_peak_is_what_torch_has_allocated(monkeypatch):
    """There is no GPU here: torch's counters are replaced, and say what is read when."""
    allocated, calls = [100_000], []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: allocated[-1])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: max(allocated))
    assert benchmark.peak_bytes(lambda: allocated.extend([350_000, 120_000]), "cuda") == 250_000 and calls == ["reset"]


def test_a_gpu_is_waited_for_before_and_after_a_pass(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    benchmark.side_by_side({"pass": lambda: calls.append("pass")}, rounds=1, device="cuda")
    assert calls == ["pass", "wait", "pass", "wait"]  # the first is not measured
    benchmark.side_by_side({"pass": lambda: None}, rounds=1)
    assert len(calls) == 4


def test_linux_states_the_peak_in_kibibytes():
    assert benchmark._high_water("VmPeak:\t  900 kB\nVmHWM:\t  128 kB\nVmRSS:\t   64 kB\n") == 128 * 1024
    assert isinstance(benchmark._highest(), int)


@pytest.mark.parametrize("repeat, rounds", [(0, 1), (0.25, 2), (0.55, 3)])
def test_a_cost_is_the_first_peak_and_the_median_of_as_many_passes_as_fill_the_time(monkeypatch, repeat, rounds):
    clock, passes = iter([0.1, 0.3, 0.2]), []
    monkeypatch.setattr(benchmark, "peak_bytes", lambda function, device: function() or 4096)
    monkeypatch.setattr(benchmark, "_seconds", lambda step, device: step() or next(clock))
    monkeypatch.setattr(benchmark, "contestant", lambda implementation, loss: lambda batch: passes.append(len(batch.labels)))
    measured = benchmark._cost_here(DENSE, "SupCon", 64, 8, 4, repeat, CPU)
    assert measured == Cost(4096, pytest.approx([0.1, 0.2, 0.2][rounds - 1]), rounds)
    assert passes == [benchmark.WARM_UP] + [64] * rounds


def test_a_cost_is_measured_in_a_process_of_its_own():
    measured = benchmark.cost(OURS, "SupCon", 64, dim=8)
    assert measured.rounds == 1 and not math.isnan(measured.bytes) and not math.isnan(measured.seconds)


@pytest.mark.parametrize("failing", [run_out_of_memory, be_killed, ask_for_too_much])
def test_a_process_without_enough_memory_gives_nothing(failing):
    assert benchmark.in_own_process(failing) is None


def test_other_errors_of_a_process_are_raised():
    with pytest.raises(RuntimeError, match="size of tensor"):
        benchmark.in_own_process(torch.add, torch.ones(2), torch.ones(3))


def test_a_contestant_over_budget_is_not_run():
    measured = benchmark.cost(DENSE, "SupCon", 10**6, estimate=4e12, budget=8e9)
    assert math.isnan(measured.bytes) and math.isnan(measured.seconds) and measured.rounds == 0


def test_sizes_after_the_budget_is_reached_are_not_run(monkeypatch):
    ran = []

    def four_matrices(function, implementation, loss, n, *rest):
        ran.append(n)
        return Cost(4 * 4 * n**2, 0.1, 1)

    monkeypatch.setattr(benchmark, "in_own_process", four_matrices)
    found = benchmark.costs(DENSE, "SupCon", [512, 2048, 10**6, 2 * 10**6], dim=8, budget=1e9)
    assert ran == [512, 2048] and [math.isnan(cost.bytes) for cost in found.values()] == [False, False, True, True]


SMALL = ["--large-batch", "64", "--everyday-batches", "16", "32", "--growth-from", "64", "--rounds", "1"]


def test_the_command_prints_every_target(capsys, monkeypatch):
    monkeypatch.setattr(contestants, "compiler_problem", lambda: "no compiler in this test")
    benchmark.main(SMALL)
    printed = capsys.readouterr()
    table = [line for line in printed.out.splitlines() if " <= " in line]
    assert len(table) == 1 + 3 + 2 * 4 + 3 * 4
    assert all(re.search(" met | NOT MET | not measurable: ", line) for line in table)
    assert f"{COMPILED}: not run" in printed.err and "no compiler in this test" in printed.err
    assert ("SupCon, linear_cross_entropy / three" in printed.out) == (contestants.problem(FUSED) is None)


def test_at_another_precision_the_command_prints_the_same_lines_without_targets(capsys, monkeypatch):
    monkeypatch.setattr(contestants, "compiler_problem", lambda: "no compiler in this test")
    monkeypatch.setattr(
        benchmark, "cost", lambda *_, machine, **__: Cost(5e6, 0.5, 1) if machine.precision == "bfloat16" else None
    )
    benchmark.main([*SMALL, "--precisions", "bfloat16"])
    printed = capsys.readouterr().out
    assert "bfloat16, N = 64" in printed and "float32" not in printed
    assert "<=" not in printed and " met " not in printed.lower() and "target" not in printed
    assert "SupCon, ours / pytorch-metric-learning" in printed and "SupCon, ours / dense" in printed


def test_on_a_gpu_the_command_measures_every_precision_and_memory(capsys, monkeypatch):
    """The lines, on a CPU that is asked as a GPU would be."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(contestants, "compiler_problem", lambda: "no compiler in this test")
    monkeypatch.setattr(benchmark, "_wait", lambda device: None)
    monkeypatch.setattr(benchmark, "peak_bytes", lambda step, device: step() or 7e6)
    monkeypatch.setattr(benchmark, "cost", lambda *_, **__: Cost(5e6, 0.5, 1))
    on_cpu = benchmark.make_batch
    monkeypatch.setattr(benchmark, "make_batch", lambda n, device, precision: on_cpu(n, precision=precision))
    monkeypatch.setattr(benchmark, "at_precision", lambda precision, device: contestants.at_precision(precision, "cpu"))
    benchmark.main([*SMALL, "--device", "cuda"])
    printed = capsys.readouterr().out
    assert printed.startswith("a GPU, ") and "<=" not in printed
    for precision in PRECISIONS:
        assert f"{precision}, N = 64" in printed and f"{precision}, N = 16" in printed
    assert printed.count(", 7 MB") == 4 * (2 + 2 * 4 + 2 * 4) - 4 * (contestants.problem(FUSED) is not None)


def test_without_a_gpu_the_command_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        benchmark.main(["--device", "cuda"])
    assert "torch sees no CUDA GPU here; expected a machine with one, or --device cpu" in capsys.readouterr().err


@pytest.mark.parametrize("n, limit", [(64, 1.6), (256, 1.3)])
def test_an_everyday_batch_is_compared_with_its_target(monkeypatch, n, limit):
    seconds = {OURS: 0.0015, DENSE: 0.001}
    monkeypatch.setattr(benchmark, "side_by_side", lambda steps, rounds, device: {name: [seconds[name[0]]] for name in steps})
    lines = list(benchmark.everyday(n, 3, CPU))
    assert [line.what for line in lines] == [f"{loss}, ours / dense" for loss in contestants.CALLS]
    assert all(line.limit == limit and line.value == pytest.approx(1.5) for line in lines)
    assert ("NOT MET" in str(lines[0])) == (n == 256)


def growth_of(monkeypatch, small, large):
    monkeypatch.setattr(benchmark, "cost", lambda implementation, loss, n, repeat=0, machine=None: small if n == 8 else large)
    return [str(target) for target in benchmark.growth(8, 8, CPU)][:3]  # SupCon's


def test_growth_is_stated_against_its_targets(monkeypatch):
    memory, time, growth = growth_of(monkeypatch, Cost(50e6, 0.1, 20), Cost(500e6, 6.0, 1))
    assert "<= 400" in memory and "500  NOT MET" in memory
    assert "<= 64" in time and "60  met" in time
    assert "<= 8" in growth and "10  NOT MET" in growth and "50 MB, 500 MB" in growth


def test_growth_from_nothing_is_not_measurable(monkeypatch):
    """On some processors a small pass fits into memory that is free already, and the meter reads 0 bytes."""
    memory, time, growth = growth_of(monkeypatch, Cost(0, 0.1, 20), Cost(500e6, 6.0, 1))
    assert "NOT MET" in memory and "met" in time
    assert growth.endswith("-  not measurable: 0 MB, 500 MB") and "met" not in growth


def test_what_did_not_fit_into_memory_is_not_measurable(monkeypatch):
    lines = growth_of(monkeypatch, Cost(50e6, 0.1, 20), Cost(math.nan, math.nan, 0))
    assert all("not measurable" in line and "NOT MET" not in line for line in lines)


def test_a_line_without_a_target_says_nothing_of_one():
    assert str(Target("a", 2.0, math.nan, "")).split() == ["a", "2"]
