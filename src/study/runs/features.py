"""Frozen features: the embeddings of all images by the encoder as it came."""

from functools import partial

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config

from study import data
from study.probes import evaluation
from study.runs.setup import new_model
from study.runs.shared import features_of, images_of, splits_of
from study.training.compute import one_core, place


def extract_features(images, setup, size):
    """Embeddings (N, D) float16 of images (N, C, H, W), or N ImageFiles, by the encoder before any training, at size x size
    pixels, on all cores or on the GPU."""
    if not setup.compute.runs_share_cores:
        return features_of_part(images, setup, size)
    with parallel_config("loky", inner_max_num_threads=1):
        parts = Parallel(n_jobs=-1)(delayed(features_of_part)(part, setup, size) for part in images.split(2500))
    return np.concatenate(parts)


def features_of_part(images, setup, size):
    torch.manual_seed(0)  # with weights "none", every part needs the same encoder
    with one_core(setup.compute):
        model = new_model(setup).to(place(setup.compute).device).eval()
        embeddings, _ = evaluation.outputs_of(model, images, partial(data.plain, size=size))
    return embeddings.astype(np.float16)


def frozen_batch(setup, size, seed=0):
    """Indices (size,) of random training images, their frozen features (size, D) less the mean of all, and labels (size,)."""
    (features, _), part = features_of(setup.dataset, setup.shared), splits_of(setup.shared)["train"]
    chosen = part[torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[:size]]
    return chosen, features[chosen].float() - features[part].float().mean(0), images_of(setup.dataset).train_labels[chosen]
