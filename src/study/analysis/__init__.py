"""From the long tables of all runs to comparisons, claims and verdicts.

Nothing here trains a model; figures of single notebooks are in study.figures.
"""
