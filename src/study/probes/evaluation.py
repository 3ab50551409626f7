"""What an encoder is worth: accuracies, and the geometry of its embeddings. Arrays in, numbers out; no method is named."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer


@torch.inference_mode()
def outputs_of(model, images, prepare, forward=None, batch_size=125):
    """Embeddings (N, D) and logits (N, C) of a model in eval mode, as numpy float32; prepare makes its inputs, on its device.
    forward is the model's method that takes them; None: the model itself.

    The batch fits a processor's cache: 500 images at a time take a third longer.
    """
    device, forward = next(model.parameters()).device, forward or model
    chunks = [forward(prepare(part).to(device)) for part in images.split(batch_size)]
    return tuple(torch.cat([getattr(chunk, name) for chunk in chunks]).numpy(force=True) for name in ("embedding", "logits"))


def linear_probe(embeddings, labels, strength=10.0):
    """Multinomial logistic regression fitted to L2-normalised embeddings (N, D), a classifier of scikit-learn; strength is
    1 / L2 penalty."""
    return make_pipeline(Normalizer(), LogisticRegression(C=strength, max_iter=300)).fit(embeddings, labels)


def nearest_neighbours(train_embeddings, train_labels, test_embeddings, k=5):
    """Predictions (M,) by majority among the k nearest training embeddings by cosine."""
    neighbours = KNeighborsClassifier(min(k, len(train_embeddings)), metric="cosine", algorithm="brute")
    return neighbours.fit(train_embeddings, train_labels).predict(test_embeddings)


def most_similar(queries, pool, k):
    """Indices (M, k) of the k rows of pool (N, D) nearest to each query (M, D) by cosine, nearest first."""
    similarity = unit_rows(queries.astype(np.float32)) @ unit_rows(pool.astype(np.float32)).T
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def accuracy(predictions, labels):
    """Share of predictions that equal the labels, in percent."""
    return 100 * float(np.mean(np.asarray(predictions) == np.asarray(labels)))


def expected_calibration_error(probabilities, labels, bins=15):
    """Mean gap between confidence and accuracy, in points (Guo et al., 2017, ICML).

    probabilities  (N, C), rows that sum to 1; labels (N,) integers.
    Images are put into `bins` bins of equal width by their confidence, the highest probability; a bin's gap |accuracy - mean
    confidence| counts by its share of the images. Few images overstate it: by chance every bin has a gap.
    Raises ValueError where rows do not sum to 1.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if (off := abs(probabilities.sum(1) - 1).max()) > 1e-3:
        raise ValueError(f"rows of probabilities miss a sum of 1 by up to {off:.3g}. Of logits, take the softmax first.")
    confidence, hit = probabilities.max(1), probabilities.argmax(1) == np.asarray(labels)
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    return 100 * float(abs(np.bincount(bin_of, weights=hit - confidence)).sum() / len(hit))


def mean_corruption_error(errors, reference, clean=0.0, reference_clean=0.0):
    """mCE in percent of a reference's (Hendrycks and Dietterich, 2019): the mean over kinds of corruption of the ratio of errors
    summed over severities. With the errors on clean images, these are taken off first: the relative mCE.

    errors, reference  (kinds, severities), in the same unit as the clean errors.
    nan where the reference loses nothing to some kind, for then the ratio means nothing.
    """
    lost = np.sum(np.asarray(errors) - clean, axis=1)
    lost_by_reference = np.sum(np.asarray(reference) - reference_clean, axis=1)
    return 100 * float(np.mean(lost / lost_by_reference)) if (lost_by_reference > 0).all() else float("nan")


def geometry(embeddings, labels):
    """Four numbers on the shape of embeddings (N, D) with labels (N,).

    within_class_cosine   mean cosine of two different images of one class (mean over classes)
    between_class_cosine  mean cosine of two images of different classes (mean over pairs of classes)
    isotropy              min over max of Z(c) = sum_i exp(c . z_i), c the eigenvectors of Z^T Z (Mu and Viswanath, 2018); 1 is
                          isotropic. z are unit embeddings, of about 2,000 images where there are more.
    simplex_distance      root mean square difference of the cosines between centred class means and -1/(K-1), their value
                          on a regular simplex
    """
    z = unit_rows(np.asarray(embeddings, dtype=np.float64))
    labels = np.asarray(labels)
    classes, counts = np.unique(labels, return_counts=True)
    sums = np.stack([z[labels == c].sum(0) for c in classes])  # (K, D)
    gram = sums @ sums.T
    within = (np.diag(gram) - counts) / (counts * (counts - 1))  # |sum|^2 holds each image with itself, a cosine of 1
    between = (gram / np.outer(counts, counts))[~np.eye(len(classes), dtype=bool)]

    some = z[:: max(len(z) // 2000, 1)]  # enough for isotropy, whose cost grows with N D^2
    _, axes = np.linalg.eigh(some.T @ some)
    partition = np.exp(some @ np.hstack([axes, -axes])).sum(0)  # an eigenvector's sign is arbitrary: both
    return {
        "within_class_cosine": float(within.mean()),
        "between_class_cosine": float(between.mean()),
        "isotropy": float(partition.min() / partition.max()),
        "simplex_distance": _simplex_distance(sums / counts[:, None]),
    }


def collapse(embeddings, labels):
    """How far embeddings (N, D) with labels (N,) are from one point per class, the points a regular simplex; both numbers are 0
    there.

    simplex_distance     as in geometry
    within_class_spread  share of the variance that lies within classes, these weighing alike; 1 if all class means coincide.
                         The variance of unit embeddings is their mean squared distance to their mean.
    """
    z, labels = unit_rows(np.asarray(embeddings, dtype=np.float64)), np.asarray(labels)
    groups = [z[labels == c] for c in np.unique(labels)]
    means = np.stack([group.mean(0) for group in groups])  # (K, D)
    within = np.mean([group.var(0).sum() for group in groups])
    return {
        "simplex_distance": _simplex_distance(means),
        "within_class_spread": float(within / (within + means.var(0).sum())),
    }


def _simplex_distance(means):
    vertices = unit_rows(means - means.mean(0))  # (K, D)
    off_simplex = (vertices @ vertices.T)[~np.eye(len(means), dtype=bool)] + 1 / (len(means) - 1)
    return float(np.sqrt((off_simplex**2).mean()))


def unit_rows(x):
    """Rows of x (N, D) at length 1; zero rows stay zero."""
    return x / np.linalg.norm(x, axis=1, keepdims=True).clip(min=1e-12)
