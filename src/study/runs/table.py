"""What a notebook's runs leave in results/<key>/ for the stages after it, small enough for Git.

runs.csv         the long table, a row per run and metric, with COLUMNS.
                 trained_on is "few-shot" (`shots` training images of each class), "full" (all training images) or "features" (an
                 MLP on frozen features); shots is blank but for "few-shot". variant is a name without numbers: the numbers are in
                 settings, one JSON object, which study.tables.with_settings spreads into columns. epoch is blank, or that of a
                 metric measured after every epoch.
curves.csv       a row per epoch of each reported run, with CURVE_COLUMNS; validation_accuracy is blank where it was not recorded.
predictions.npz  of the reported runs. predictions_<shots> (seeds, N): the class that each seed's run gives to each test image, in
                 the smallest unsigned integers; <shots> is "full" for runs on all images. embedding_<shots>, for the first number
                 of shots alone: float16 (at most 2,000, at most 50), seed 0's embeddings of the first test images at unit length,
                 rotated onto their principal directions (not centred, so that cosines stay what they are).
checks.csv       what a notebook measured without training a model: check, seed, value.
"""
