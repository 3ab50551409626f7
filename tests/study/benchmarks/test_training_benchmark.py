"""The benchmark of training runs, and measures what it says. Nothing here asserts a time."""

import torch

from study.benchmarks import training as throughput
from study.methods import METHODS


def test_the_command_prints_every_target(capsys):
    throughput.main(["--encoder", "test_resnet", "--batch", "8", "--image-size", "16", "--rounds", "1"])
    table = [line for line in capsys.readouterr().out.splitlines() if " <= " in line]
    assert len(table) == len(METHODS) - 1 + 1 + 2 and all("met" in line.lower() for line in table)


def test_a_measured_step_sees_as_many_rows_as_the_encoder_does_alone(monkeypatch):
    rows = []

    def encoder(name, weights):
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 4))
        module.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
        module.dim = 4
        return module

    monkeypatch.setattr(throughput, "ImageEncoder", encoder)
    list(throughput.from_memory("any", 8, 16, rounds=1, steps=3))
    assert rows == [8] * 12  # three of training and three of the encoder, each once to warm up
