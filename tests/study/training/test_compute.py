"""However a model is computed, it learns the same: in chunks, in several processes, compiled, or stopped and taken up again. Half
precision differs by its rounding alone. Nothing here runs on a GPU."""

import gc
import json
import os
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import (
    CLASSES,
    OBJECTIVES,
    clce,
    cross_entropy,
    data,
    gradients,
    largest_difference,
    new_model,
    supcon,
    train_small,
    train_with,
    weights,
)
from torch import nn

from study import data as datasets
from study import runs
from study.runs import Run, Setup, run_all
from study.runs.features import features_of_part
from study.training.compute import LAPTOP, Compute, embed, launch, place
from study.training.contrasts import QueueSettings
from study.training.model import Model, feature_encoder

HERE = Path(__file__).parent
needs_no_gpu = pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")


# Settings


@pytest.mark.parametrize(
    "wrong, expected",
    [
        ({"device": "gpu"}, "device is 'gpu'; expected one of .*'auto'"),
        ({"precision": "float16"}, "precision is 'float16'; expected one of .*'fp16'"),
        ({"world_size": 0}, "world_size is 0; expected a whole number >= 1"),
        ({"chunk": 2.0}, "chunk is 2.0; expected a whole number >= 1 or None"),
        ({"workers": -1}, "workers is -1; expected a whole number >= 0"),
        ({"compiled": "yes"}, "compiled is 'yes'"),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_name(wrong, expected):
    with pytest.raises(ValueError, match=expected):
        Compute(**wrong)


@needs_no_gpu
def test_a_device_that_is_not_here_is_refused_and_auto_takes_what_is():
    with pytest.raises(ValueError, match='device is "cuda"; this machine has "cpu". "auto" takes what there is'):
        train_small(supcon, compute=Compute(device="cuda"))
    assert place(Compute(device="auto")) == (0, 1, torch.device("cpu"))


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert Compute("auto", world_size=2).torch_device().type == "cuda" and not Compute("cuda").runs_share_cores
    with pytest.raises(ValueError, match="world_size is 3 but there are 2 GPUs"):
        Compute("cuda", world_size=3).torch_device()


# Chunks


@pytest.mark.parametrize("name", OBJECTIVES)
def test_chunks_have_the_gradient_of_the_whole_batch(name):
    whole, chunks = (train_small(OBJECTIVES[name], compute=Compute(chunk=chunk)) for chunk in (None, 5))
    assert largest_difference(gradients(whole[0]), gradients(chunks[0])) < 1e-12
    assert largest_difference(weights(whole[0]), weights(chunks[0])) < 1e-12 and chunks[1] == pytest.approx(whole[1], rel=1e-12)


def test_a_chunk_drops_out_the_same_the_second_time():
    inputs, labels = data()
    one, other = new_model(dropout=0.5), new_model(dropout=0.5)
    torch.manual_seed(1)
    parts = [one(part) for part in inputs.split(7)]  # all with gradients, in the same order
    torch.nn.functional.cross_entropy(torch.cat([part.logits for part in parts]), labels).backward()
    after = torch.rand(())
    torch.manual_seed(1)
    outputs = other.outputs(embed(other.encoder, inputs, Compute(chunk=7)))
    assert torch.equal(torch.rand(()), after)
    torch.nn.functional.cross_entropy(outputs.logits, labels).backward()
    assert largest_difference(gradients(one), gradients(other)) < 1e-12


def test_between_the_passes_only_embeddings_are_kept_and_no_chunk_is_larger():
    alive, rows = [], []

    class Watched(nn.Module):
        def forward(self, x):
            hidden = x.exp()
            rows.append(len(x))
            alive.append(weakref.ref(hidden))
            return hidden.sin()

    model = Model(nn.Sequential(nn.Linear(6, 10), Watched()), 10, CLASSES)
    embeddings = embed(model.encoder, data()[0].float(), Compute(chunk=7))
    gc.collect()
    assert rows == [7, 7, 7, 3] and not any(reference() is not None for reference in alive)
    embeddings.sum().backward()
    assert rows == [7, 7, 7, 3] + [3, 7, 7, 7] and model.encoder[0].weight.grad is not None


# Precision and compilation


def image_like(objective=supcon, **changes):
    """(model, losses) of a float32 model with batch norm."""
    torch.manual_seed(0)
    model = Model(feature_encoder(6, 16), 16, CLASSES, projection_dim=8)
    x, y = data(64)
    how = {"view": lambda v: v.float(), "views": 2, "epochs": 2, "batch_size": 32, "learning_rate": 0.01, "weight_decay": 0.01}
    history = train_with(model, objective, x, y, **(how | {"seed": 0} | changes))
    return model, history.losses


@pytest.mark.parametrize("precision, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_is_the_encoder_s_alone(precision, dtype):
    inside, given = [], []

    def objective(outputs, batch):
        given.extend(x.dtype for x in (outputs.embedding, outputs.projection, outputs.logits))
        assert not torch.is_autocast_enabled("cpu")
        return clce(outputs, batch)

    compute = Compute(precision=precision, chunk=17)
    with torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, output: inside.append(output.dtype) if getattr(module, "in_features", 0) == 6 else None  # the encoder's
    ):
        model, losses = image_like(objective, compute=compute)
    assert set(inside) == {dtype} and set(given) == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert losses == pytest.approx(image_like(clce)[1], rel=0.02) and losses != image_like(clce)[1]


def test_fp16_scales_a_loss_whose_gradient_would_vanish():
    def tiny(outputs, batch):
        return 1e-6 * cross_entropy(outputs, batch)

    exact, half = (
        gradients(image_like(tiny, epochs=1, optimizer="sgd", compute=c)[0]) for c in (LAPTOP, Compute(precision="fp16"))
    )
    assert largest_difference(exact, half) < 0.05
    assert max(g.abs().max() for g in exact.values() if g is not None) < torch.finfo(torch.float16).smallest_normal / 10


def test_compiled_is_the_same(monkeypatch):
    asked, compile_ = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda encoder: asked.append(encoder) or compile_(encoder, backend="aot_eager"))
    model, losses = image_like(compute=Compute(compiled=True))
    assert asked == [model.encoder] and losses == pytest.approx(image_like()[1], rel=1e-5)
    assert weights(model).keys() == weights(image_like()[0]).keys()


# Stop and go


class Stop(Exception):
    pass


def raise_stop():
    raise Stop


def stopping(objective, step, stop=raise_stop):
    """The objective, but in that step (from 1) training is stopped."""
    calls = []

    def stopped(outputs, batch):
        calls.append(1)
        if len(calls) == step:
            stop()
        return objective(outputs, batch)

    return stopped


def noisy(x):
    return x + 0.1 * torch.randn_like(x)


# two steps an epoch, with random numbers in views, model and objective
RANDOM = {"view": noisy, "dropout": 0.5, "epochs": 3, "optimizer": "adamw", "learning_rate": 0.01}
KINDS = {
    "plain": RANDOM,
    "queue": RANDOM | {"queue": QueueSettings(30, 0.5)},
    "fp16": RANDOM | {"compute": Compute(precision="fp16", chunk=9)},
}


def with_noise(outputs, batch):
    return supcon(outputs, batch) * (1 + 0.1 * torch.rand(()))


@pytest.mark.parametrize("step", [2, 3, 4, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_stopped_goes_on_to_the_same_numbers(tmp_path, kind, step):
    how, path = (
        KINDS[kind] | {"on_epoch": lambda epoch, model: {"draw": float(torch.rand(()))}},
        tmp_path / "new folder" / "run.pt",
    )
    seen, seen_resumed = [], []
    whole, losses = train_small(with_noise, records=seen, **how)
    with pytest.raises(Stop):
        train_small(stopping(with_noise, step), checkpoint=path, **how)
    torch.rand(7)
    resumed, losses_resumed = train_small(with_noise, checkpoint=path, records=seen_resumed, **how)
    assert largest_difference(weights(whole), weights(resumed)) == 0
    assert losses == losses_resumed and seen == seen_resumed and len(seen) == 3


def test_a_run_that_is_killed_goes_on_to_the_same_numbers(tmp_path):
    """In the second step of the second epoch, by a signal that cannot be caught."""
    script = (
        "import os, signal, sys; from functools import partial; import test_compute as t\n"
        "objective = t.stopping(t.with_noise, 4, partial(os.kill, os.getpid(), signal.SIGKILL))\n"
        "t.train_small(objective, checkpoint=sys.argv[1], **t.RANDOM)"
    )
    path = tmp_path / "run.pt"
    assert in_shell([sys.executable, "-c", script, str(path)]).returncode == -signal.SIGKILL
    written = path.read_bytes()
    resumed, losses = train_small(with_noise, checkpoint=path, **RANDOM)
    whole, whole_losses = train_small(with_noise, **RANDOM)
    assert largest_difference(weights(whole), weights(resumed)) == 0 and losses == whole_losses
    assert path.read_bytes() != written


def in_shell(command):
    folders = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": folders}, timeout=300, capture_output=True, text=True)


def test_a_finished_run_is_not_trained_again(tmp_path):
    calls = []

    def counted(outputs, batch):
        calls.append(1)
        return supcon(outputs, batch)

    first, again = (train_small(counted, checkpoint=tmp_path / "run.pt") for _ in range(2))
    assert len(calls) == 4 and largest_difference(weights(first[0]), weights(again[0])) == 0 and first[1] == again[1]
    assert not again[0].training


def test_a_checkpoint_of_another_run_is_refused_and_stays(tmp_path):
    path = tmp_path / "run.pt"
    train_small(supcon, checkpoint=path)
    written = path.read_bytes()
    with pytest.raises(ValueError, match="run.pt is of a run with learning_rate 0.3, this one has 0.1. Delete the file"):
        train_small(supcon, checkpoint=path, learning_rate=0.1)
    assert path.read_bytes() == written and list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_fails_midway_leaves_the_last_one(tmp_path, monkeypatch):
    path, saved = tmp_path / "run.pt", []

    def save(state, target):
        saved.append(1)
        if len(saved) < 3:
            return torch.serialization.save(state, target)
        target.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="disk full"):
        train_small(with_noise, checkpoint=path, **RANDOM)
    resumed, losses = (monkeypatch.undo(), train_small(with_noise, checkpoint=path, **RANDOM))[1]
    assert losses == train_small(with_noise, **RANDOM)[1]


# Several processes


def in_each(folder, run, setup):
    """In each process: its threads, a model with batch norm, a run of an experiment, and a run that is stopped and goes on."""
    rank = torch.distributed.get_rank()
    (folder / f"threads {rank}").write_text(str(torch.get_num_threads()))
    torch.save(weights(image_like()[0]), folder / f"weights {rank}")
    outcome = runs.execute(run, setup)
    assert (outcome is None) == (rank > 0)
    how = KINDS["queue"] | {"queue": QueueSettings(48, 0.5)}
    whole = weights(train_small(with_noise, **how)[0])
    with pytest.raises(Stop):
        train_small(stopping(with_noise, 4), checkpoint=folder / "run.pt", **how)
    resumed = weights(train_small(with_noise, checkpoint=folder / "run.pt", **how)[0])
    return outcome, largest_difference(whole, resumed)


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    digits = datasets.load("digits")
    train_part, validation = datasets.split_validation(digits.train_labels, 200, seed=0)
    draw = {runs.draw_name(5, 0): datasets.few_shot_draw(digits.train_labels, train_part, 5, 0)}
    np.savez(folder / "splits.npz", train=train_part[:500], validation=validation, **draw)
    for part, images in [("train", digits.train_images), ("test", digits.test.open("test")[0])]:
        np.save(folder / f"features_{part}.npy", images.flatten(1).numpy().astype(np.float16))
    return Setup(
        shared=folder, dataset="digits", encoder="test_resnet", weights="none", image_size=32, batch_size=20, weight_decay=0.01
    )


FEW = Run(
    method="SupCon", variant="few", objective=supcon, trained_on="few-shot", shots=5, seed=0, learning_rate=0.003, epochs=2,
    classifier="probe", evaluate_on="validation", keep=True,
)  # fmt: skip
FEATURES = Run(
    method="CE",
    variant="plain",
    objective=cross_entropy,
    trained_on="features",
    seed=0,
    learning_rate=0.01,
    epochs=3,
    batch_size=50,
)


def test_two_processes_run_an_experiment_and_go_on_after_a_stop(setup, tmp_path):
    """Started where threads have been at work, with a function that cannot be imported."""
    torch.set_num_threads(2)
    torch.randn(500, 500) @ torch.randn(500, 500)
    torch.set_num_threads(1)
    shared = replace(setup, compute=Compute(world_size=2, precision="bf16"))
    outcome, difference = launch(lambda *given: in_each(*given), tmp_path, FEW, shared, compute=shared.compute)
    assert difference == 0
    assert outcome.run.objective.func.__name__ == "supcon" and len(outcome.embeddings) == 200 and len(outcome.losses) == 2
    alone = runs.execute(FEW, setup)
    assert outcome.losses == pytest.approx(alone.losses, rel=0.3)  # other augmentations, and batch norm over 10 images of 20
    assert outcome.metrics["accuracy"] == pytest.approx(alone.metrics["accuracy"], abs=15)
    assert {path.name for path in tmp_path.glob("threads*")} == {"threads 0", "threads 1"}
    one, other = (torch.load(tmp_path / f"weights {rank}") for rank in (0, 1))  # running statistics included
    assert one["encoder.1.running_mean"].abs().max() > 0 and largest_difference(one, other) == 0
    record = json.loads(runs.table([outcome], shared).settings[0])
    assert record["compute"] == {"world_size": 2, "precision": "bf16"} and "compute" not in json.loads(
        runs.table([alone], setup).settings[0]
    )


def fail():
    raise ArithmeticError(f"no such number, says {torch.distributed.get_rank()}")


def test_an_error_in_a_process_is_told():
    with pytest.raises(RuntimeError, match="(?s)one of 2 processes failed: .*ArithmeticError: no such number, says [01]"):
        launch(fail, compute=Compute(world_size=2))


def test_torchrun_runs_the_same_function(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\n"
        "from small import clce, train_small, weights\n"
        "from study.training.compute import Compute, launch, place\n"
        "model, losses = launch(train_small, clce, compute=Compute(world_size=7))\n"
        "if place(Compute()).rank == 0:\n"
        "    torch.save(weights(model), sys.argv[1])\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = in_shell([*torchrun, str(script), str(tmp_path / "weights.pt")])
    assert done.returncode == 0, done.stderr
    assert largest_difference(weights(train_small(clce)[0]), torch.load(tmp_path / "weights.pt")) < 1e-8


def test_batch_norm_of_every_gpu_is_one_and_keeps_its_activation():
    """Converted here, not run: statistics are shared on GPUs only."""
    import timm

    model = timm.create_model("test_efficientnet", num_classes=0).eval()
    x = torch.randn(2, 3, 32, 32)
    before = model(x)
    from timm.layers import convert_sync_batchnorm

    convert_sync_batchnorm(model)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in model.modules()) and torch.equal(model(x), before)


# Experiments


def test_an_experiment_s_run_goes_on_from_its_checkpoint(setup, tmp_path):
    kept = replace(setup, compute=Compute(checkpoints=str(tmp_path)))
    run = replace(FEATURES, curve=True, epoch_metrics=lambda trained, inputs, labels: {"spread": trained.embeddings.std()})
    whole = runs.execute(run, setup)
    with pytest.raises(Stop):
        runs.execute(replace(run, objective=stopping(cross_entropy, 25)), kept)
    resumed = runs.execute(run, kept)
    assert resumed.metrics == whole.metrics and resumed.losses == whole.losses and resumed.curve == whole.curve
    assert len(resumed.curve) == 3 and resumed.epoch_metrics == whole.epoch_metrics and len(whole.epoch_metrics["spread"]) == 3
    runs.execute(replace(run, learning_rate=0.1), kept)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2 and all(name.startswith("CE-plain-features-0-") for name in names)


def test_runs_go_one_after_another_where_cores_are_not_theirs_alone(setup, monkeypatch, capsys):
    """Stands for a GPU: what runs there is asked of one process."""
    monkeypatch.setattr(Compute, "runs_share_cores", False)
    threads = torch.get_num_threads()
    outcomes = run_all([FEATURES, replace(FEATURES, seed=1)], setup)
    assert [outcome.run.seed for outcome in outcomes] == [0, 1] and torch.get_num_threads() == threads
    assert "2/2 CE plain, all images" in capsys.readouterr().out
    images = datasets.load("digits").train_images[:30]
    whole = runs.extract_features(images, setup, 32)
    assert np.array_equal(whole, features_of_part(images, setup, 32))


def test_a_run_with_a_queue_records_it(setup):
    run = replace(FEATURES, queue=QueueSettings(100, 0.9), objective=supcon, classifier="probe")
    outcome = runs.execute(run, setup)
    record = json.loads(runs.table([outcome], setup).settings[0])
    assert (record["queue_size"], record["momentum"]) == (100, 0.9)
    assert outcome.losses != runs.execute(replace(run, queue=None), setup).losses
