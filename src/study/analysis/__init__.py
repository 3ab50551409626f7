"""From the long tables of all runs to verdicts: comparison has tables of all methods and plots draws them; ledger holds the rule
that judges a claim, and claims what the papers say, one contrast each.

For claims that are written down before the runs (study.registration): inference has the effect of a cell and its error, coverage
the simulated studies that judge this error, decisions the verdicts, and across what several cells say together.

Nothing here trains a model or reads a data set: small files under results/ are enough. Figures of single notebooks are in
study.figures.
"""
