"""Accuracies on data with a known answer, geometry against explicit pairs and closed forms."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from study.probes import evaluation
from study.probes.evaluation import geometry


def rays(n, seed, noise=0.1):
    """Four classes along four directions of the plane, at any length, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    angle = labels * np.pi / 2 + noise * rng.standard_normal(n)
    return np.stack([np.cos(angle), np.sin(angle)], 1) * 10 ** rng.uniform(-3, 3, (n, 1)), labels


def probed(x, y, test_x, **settings):
    return evaluation.linear_probe(x, y, **settings).predict(test_x)


@pytest.mark.parametrize("predict", [probed, evaluation.nearest_neighbours])
def test_directions_are_classified_whatever_the_lengths(predict):
    x, y = rays(80, seed=0)
    test_x, test_y = rays(100, seed=1)
    assert evaluation.accuracy(predict(x, y, test_x), test_y) == 100


@pytest.mark.parametrize("predict", [probed, evaluation.nearest_neighbours])
def test_shuffled_labels_are_not_learned(predict):
    x, y = rays(400, seed=0, noise=3)
    test_x, _ = rays(400, seed=1, noise=3)
    guesses = predict(x, np.random.default_rng(0).permutation(y), test_x)
    assert 15 < evaluation.accuracy(guesses, np.random.default_rng(1).permutation(y)) < 35


def test_nearest_neighbours_take_the_majority_of_k():
    angles = np.array([0.0, 0.02, -0.03, 0.5, -0.5])
    x, y = np.stack([np.cos(angles), np.sin(angles)], 1), np.array([0, 1, 1, 0, 0])
    query = np.array([[1.0, 0.001]])
    assert [int(evaluation.nearest_neighbours(x, y, query, k=k)[0]) for k in (1, 3, 5)] == [0, 1, 0]


def test_nearest_neighbours_of_fewer_images_than_k_use_all():
    x, y = np.array([[1.0, 0], [1, 0.1], [0, 1]]), np.array([3, 3, 7])
    assert evaluation.nearest_neighbours(x, y, np.array([[0.0, 1]]), k=5).tolist() == [3]


def test_linear_probe_regularises_more_at_less_strength():
    x, y = rays(40, seed=0)
    x[:4], few = rays(4, seed=5)[0], np.array([0] * 37 + [1] * 3)  # three of forty: at tiny strength only the prior counts
    assert (probed(x, few, x, strength=1e-6) == 0).all()
    assert evaluation.accuracy(probed(x, y, x, strength=10.0), y) == 100


def test_most_similar_rows_come_nearest_first_whatever_their_lengths():
    angles = np.array([0.5, 0.1, -0.3, 3.0])
    pool = np.stack([np.cos(angles), np.sin(angles)], 1) * np.array([[1e3], [1e-3], [1], [1]])
    found = evaluation.most_similar(np.array([[7.0, 0], [-7.0, 0]]), pool, k=3)
    assert found.tolist() == [[1, 2, 0], [3, 0, 2]]


def test_accuracy_is_the_share_of_hits_in_percent():
    assert evaluation.accuracy(np.array([1, 2, 3, 4]), torch.tensor([1, 2, 3, 0])) == 75.0


def test_outputs_are_those_of_one_pass_in_the_order_of_images():
    images = torch.arange(23, dtype=torch.float32)[:, None]

    def model(x):
        assert len(x) <= 5
        return SimpleNamespace(embedding=x * torch.tensor([1.0, 2.0]), logits=-x)

    model.parameters = lambda: iter([torch.zeros(1)])
    embeddings, logits = evaluation.outputs_of(model, images, lambda x: x + 1, batch_size=5)
    assert np.array_equal(embeddings, (np.arange(23)[:, None] + 1) * np.array([1, 2]))
    assert np.array_equal(logits, -(np.arange(23)[:, None] + 1.0)) and embeddings.dtype == np.float32


# Geometry


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def slow_geometry(embeddings, labels):
    rows = {c: [tuple(e) for e, y in zip(embeddings, labels, strict=True) if y == c] for c in sorted(set(labels))}
    unit = [[x / math.hypot(*e) for x in e] for e in embeddings]
    class_means = {
        c: [mean(u[d] for u, y in zip(unit, labels, strict=True) if y == c) for d in range(len(unit[0]))] for c in rows
    }
    centre = [mean(m[d] for m in class_means.values()) for d in range(len(unit[0]))]
    centred = [[x - o for x, o in zip(m, centre, strict=True)] for m in class_means.values()]
    target = -1 / (len(rows) - 1)
    return {
        "within_class_cosine": mean(mean(cosine(a, b) for a, b in itertools.combinations(r, 2)) for r in rows.values()),
        "between_class_cosine": mean(
            mean(cosine(a, b) for a in rows[c] for b in rows[d]) for c, d in itertools.combinations(rows, 2)
        ),
        "simplex_distance": math.sqrt(mean((cosine(a, b) - target) ** 2 for a, b in itertools.combinations(centred, 2))),
    }


@pytest.mark.parametrize("seed", range(5))
def test_geometry_is_the_explicit_pairs(seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat([4, 0, 9], [3, 5, 2])  # uneven classes: means over classes, not over pairs
    embeddings = rng.standard_normal((10, 4)) + rng.standard_normal((10, 4))[labels] * 0.5
    embeddings *= 10 ** rng.uniform(-2, 2, (10, 1))
    found = geometry(embeddings, labels)
    for name, value in slow_geometry(embeddings, labels.tolist()).items():
        assert found[name] == pytest.approx(value, rel=1e-10), name


@pytest.mark.parametrize("classes, dim", [(2, 1), (2, 3), (4, 4), (10, 16)])
def test_collapse_onto_a_rotated_simplex_has_distance_0_and_within_cosine_1(classes, dim):
    rng = np.random.default_rng(0)
    vertices = (
        np.array([[1.0], [-1.0]])
        if dim == 1
        else np.eye(max(classes, dim))[:classes] - 1 / classes * (np.arange(max(classes, dim)) < classes)
    )
    turn, _ = np.linalg.qr(rng.standard_normal((vertices.shape[1],) * 2))
    labels = np.arange(3 * classes) % classes
    found = geometry((vertices @ turn)[labels] * rng.uniform(0.1, 10, (len(labels), 1)), labels)
    assert found["within_class_cosine"] == pytest.approx(1)
    assert found["between_class_cosine"] == pytest.approx(-1 / (classes - 1))
    assert found["simplex_distance"] == pytest.approx(0, abs=1e-12)


def test_simplex_distance_ignores_what_all_classes_share():
    """Orthogonal classes are a simplex once their common mean is taken away; on one line they are not."""
    labels = np.arange(8) % 4
    assert geometry(np.eye(4)[labels], labels)["simplex_distance"] == pytest.approx(0, abs=1e-12)
    angles = np.array([0.0, 0.1, 0.2, 0.3])[labels]
    assert geometry(np.stack([np.cos(angles), np.sin(angles)], 1), labels)["simplex_distance"] > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_collapse_has_the_simplex_distance_of_geometry(seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat([4, 0, 9], [3, 5, 2])
    embeddings = rng.standard_normal((10, 4)) + rng.standard_normal((10, 4))[labels]
    expected = slow_geometry(embeddings, labels.tolist())["simplex_distance"]
    assert evaluation.collapse(embeddings, labels)["simplex_distance"] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("classes, angle", [(2, 0.3), (3, 0.2), (5, 0.9), (5, 0.0)])
def test_pairs_at_an_angle_to_their_class_have_a_spread_of_its_squared_sine(classes, angle):
    """Directions spread evenly around the circle, each class on both sides of its own: total variance 1, within sin^2."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(classes), 4)
    turned = 2 * np.pi * labels / classes + angle * np.where(np.arange(len(labels)) < 2 * classes, 1, -1)
    points = np.stack([np.cos(turned), np.sin(turned)], 1) * rng.uniform(0.1, 10, (len(labels), 1))
    found = evaluation.collapse(points, labels)["within_class_spread"]
    assert found == pytest.approx(math.sin(angle) ** 2, abs=1e-12)


def test_classes_weigh_alike_in_the_within_class_spread():
    """Class 0 sits at one point, class 1 half at it and half opposite: class means 1 and 0 on an axis, variances 0 and 1."""
    points = np.array([[1.0], [1], [1], [1], [1], [1], [1], [-1]])
    labels = np.array([0] * 6 + [1] * 2)
    assert evaluation.collapse(points, labels)["within_class_spread"] == pytest.approx(0.5 / (0.5 + 0.25))


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_isotropy_of_plus_and_minus_every_axis_is_1(dim):
    points = np.concatenate([np.eye(dim), -np.eye(dim)] * 2)
    assert geometry(points, np.arange(4 * dim) % 2)["isotropy"] == pytest.approx(1)


def test_isotropy_of_a_single_direction_is_exp_of_minus_2():
    """Z is e^-1 per image against the direction and e^1 along it."""
    points = np.tile([3.0, 4.0, 0.0], (6, 1))
    assert geometry(points, np.arange(6) % 2)["isotropy"] == pytest.approx(math.exp(-2))


def test_isotropy_falls_as_embeddings_narrow_to_a_cone():
    rng = np.random.default_rng(0)
    noise, labels = rng.standard_normal((2000, 5)), np.arange(2000) % 2
    wide, half, narrow = (geometry(noise + shift * np.eye(5)[0], labels)["isotropy"] for shift in (0, 1, 5))
    assert 1 >= wide > 0.9 > half > narrow + 0.1


# Calibration and corruption


def simulated(n, seed, power=1.0):
    """Probabilities (n, 4), labels drawn from them, and the same probabilities sharpened by `power`."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(4), n)
    labels = (p.cumsum(1) < rng.uniform(size=(n, 1))).sum(1).clip(max=3)
    return p**power / (p**power).sum(1, keepdims=True), labels


def slow_calibration_error(probabilities, labels, bins):
    total = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins if b < bins - 1 else 2
        inside = [i for i, row in enumerate(probabilities) if low <= max(row) < high]
        if inside:
            right = mean(float(np.argmax(probabilities[i]) == labels[i]) for i in inside)
            sure = mean(max(probabilities[i]) for i in inside)
            total += len(inside) / len(labels) * abs(right - sure)
    return 100 * total


@pytest.mark.parametrize("bins", [1, 7, 15])
@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_calibration_error_is_the_explicit_bins(bins, power):
    p, labels = simulated(300, seed=int(10 * power), power=power)
    found = evaluation.expected_calibration_error(p, labels, bins=bins)
    assert found == pytest.approx(slow_calibration_error(p, labels, bins), rel=1e-9)


def test_calibration_error_of_true_probabilities_is_0():
    assert evaluation.expected_calibration_error(*simulated(200_000, seed=0)) < 0.5
    assert evaluation.expected_calibration_error(*simulated(200_000, seed=0, power=3)) > 10


def test_calibration_error_of_a_constant_confidence_is_its_gap_to_accuracy():
    p, labels = np.tile([0.05, 0.95], (100, 1)), np.arange(100) < 70  # right 70 times of 100, sure of 95
    assert evaluation.expected_calibration_error(p, ~labels) == pytest.approx(65)
    assert evaluation.expected_calibration_error(p, labels) == pytest.approx(25)
    assert evaluation.expected_calibration_error(np.eye(2)[[1] * 100], labels) == pytest.approx(30)


def test_the_last_bin_holds_a_confidence_of_1():
    p, labels = np.array([[0.0, 1.0]] * 50 + [[0.05, 0.95]] * 50), np.arange(100) >= 5  # gaps of -10 and +5 in one bin
    assert evaluation.expected_calibration_error(p, labels) == pytest.approx(2.5)


def test_calibration_error_refuses_logits():
    with pytest.raises(ValueError, match="miss a sum of 1 by up to 2. Of logits, take the softmax first"):
        evaluation.expected_calibration_error(np.array([[0.5, 0.5], [3.0, 0.0]]), np.array([0, 1]))


def test_corruption_error_is_the_hand_computation():
    errors, reference = [[10, 20], [30, 60]], [[20, 40], [15, 25]]
    assert evaluation.mean_corruption_error(errors, reference) == pytest.approx(100 * (30 / 60 + 90 / 40) / 2)
    relative = evaluation.mean_corruption_error(errors, reference, clean=5, reference_clean=10)
    assert relative == pytest.approx(100 * (20 / 40 + 80 / 20) / 2)
    assert evaluation.mean_corruption_error(reference, reference, 10, 10) == pytest.approx(100)


def test_corruption_error_of_a_reference_that_loses_nothing_is_undefined():
    assert np.isnan(evaluation.mean_corruption_error([[12.0, 14]], [[10.0, 10]], clean=9, reference_clean=10))
