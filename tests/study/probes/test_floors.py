"""Floors: what each is, that its setting is chosen on validation images, and the rows that it leaves."""

import json

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from study import data, runs
from study.probes import floors
from study.probes.evaluation import accuracy
from study.runs import Setup


@pytest.fixture(scope="module")
def digits():
    """(training, validation) rows and labels, and test rows and labels, of the digits."""
    images = data.load("digits")
    rows, labels = floors.pixel_rows(images.train_images), images.train_labels.numpy()
    test_images, test_labels = images.test.open("test")
    return (rows[:300], labels[:300]), (rows[300:600], labels[300:600]), (floors.pixel_rows(test_images), test_labels.numpy())


def test_every_floor_is_far_above_chance_and_says_what_it_is_from(digits):
    train, validation, (test, labels) = digits
    (readings,) = floors.measure(floors.FLOORS, [train], validation, test)
    names = ["pixels, logistic regression", "pixels, SVM", "pixels, nearest neighbours", "untouched encoder"]
    assert [reading.name for reading in readings] == names
    for reading in readings:
        assert accuracy(reading.predictions, labels) > 85 and reading.predictions.shape == labels.shape
        assert reading.images == 300 and reading.setting in floors.FLOORS[reading.name].settings


def test_each_draw_has_its_own_readings_in_its_order(digits):
    (rows, labels), validation, (test, _) = digits
    draws = [(rows[:60], labels[:60]), (rows[60:160], labels[60:160])]
    both = floors.measure(floors.ON_PIXELS, draws, validation, test)
    assert [[reading.images for reading in of_draw] for of_draw in both] == [[60] * 3, [100] * 3]
    again = floors.measure(floors.ON_PIXELS, draws[1:], validation, test)
    for first, second in zip(both[1], again[0], strict=True):
        assert np.array_equal(first.predictions, second.predictions)


def test_the_setting_is_the_best_on_validation_images():
    """Every test image is nearest to a wrong label, which more neighbours outvote."""
    rows = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2], [5.3]])
    labels = np.array([1, 0, 0, 1, 1, 1, 1])
    validation = np.array([[-0.1], [5.1]]), np.array([0, 1])
    neighbours = {"pixels, nearest neighbours": floors.ON_PIXELS["pixels, nearest neighbours"]}
    ((reading,),) = floors.measure(neighbours, [(rows, labels)], validation, np.array([[-0.2]]))
    assert reading.setting == 3 and reading.predictions.tolist() == [0]


def test_the_svm_is_that_of_scikit_learn(digits):
    (rows, labels), _, (test, _) = digits
    expected = SVC(C=3.0, gamma="scale").fit(rows.astype(np.float64), labels).predict(test)
    assert accuracy(floors._svm(rows, labels, 3.0).predict(test), expected) > 99.5


def test_pixels_are_rows_between_0_and_1():
    images = torch.tensor([[[[0, 255], [51, 0]]]], dtype=torch.uint8)
    assert floors.pixel_rows(images).tolist() == [[0.0, 1.0, pytest.approx(0.2), 0.0]]


def test_of_many_training_images_a_fixed_random_part_is_taken(monkeypatch):
    monkeypatch.setattr(floors, "MOST", 50)
    chosen = floors.in_random_order(torch.arange(1000))
    assert len(set(chosen.tolist())) == 50 and chosen.max() > 500
    assert torch.equal(chosen, floors.in_random_order(torch.arange(1000)))
    assert sorted(floors.in_random_order(torch.arange(9)).tolist()) == list(range(9))


def test_floors_leave_rows_of_the_long_table_and_their_predictions(tmp_path):
    labels = np.array([0, 1, 2])

    def reading(name, *predictions):
        return floors.Reading(name, 3.0, 40, np.array(predictions), 1.25)

    names = ["pixels, SVM", "untouched encoder"]
    readings = {
        (20, 0): [reading(names[0], 0, 1, 1), reading(names[1], 0, 1, 2)],
        (20, 1): [reading(names[0], 0, 0, 0), reading(names[1], 2, 1, 2)],
        ("full", 0): [reading(names[0], 0, 1, 2), reading(names[1], 1, 1, 2)],
    }
    setup = Setup(
        shared=tmp_path, dataset="digits", encoder="test_resnet", weights="none", image_size=24, batch_size=0, weight_decay=0.0
    )
    runs.write_floors(tmp_path, readings, labels, setup, side=8)
    table = runs.read_runs(tmp_path / "runs.csv")
    assert set(table.variant) == {"floor"} and set(table.metric) == {"accuracy"}
    assert table.method.tolist() == names * 3 and table.seed.tolist() == [0, 0, 1, 1, 0, 0]
    assert (
        table.trained_on.tolist() == ["few-shot"] * 4 + ["full"] * 2 and table.shots.isna().tolist() == [False] * 4 + [True] * 2
    )
    assert table.value.round(1).tolist() == [66.7, 100.0, 33.3, 66.7, 100.0, 66.7]
    first, second = (json.loads(text) for text in table.settings[:2])
    assert (first["encoder"], first["image_size"], first["floor_images"], first["floor_setting"]) == ("none", 8, 40, 3.0)
    assert (second["encoder"], second["image_size"], second["pixels"]) == ("test_resnet", 24, "digits of scikit-learn")
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert arrays["floors"].tolist() == names
        assert arrays["predictions_floor_20"].dtype == np.uint8
        assert arrays["predictions_floor_20"].tolist() == [[[0, 1, 1], [0, 0, 0]], [[0, 1, 2], [2, 1, 2]]]
        assert arrays["predictions_floor_full"].tolist() == [[[0, 1, 2]], [[1, 1, 2]]]


def test_without_floors_the_table_is_empty(tmp_path):
    setup = Setup(
        shared=tmp_path, dataset="digits", encoder="test_resnet", weights="none", image_size=24, batch_size=0, weight_decay=0.0
    )
    assert runs.write_floors(tmp_path, {}, np.array([0]), setup, side=8).empty
