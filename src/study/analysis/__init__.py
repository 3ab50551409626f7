"""From the long tables of all runs to verdicts: comparison has tables of all methods and plots draws them; ledger holds the rule
that judges a claim, and claims what the papers say, one contrast each.

Nothing here trains a model or reads a data set: small files under results/ are enough. Figures of single notebooks are in
study.figures.
"""
