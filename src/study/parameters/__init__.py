"""The parameters of all notebooks, defined once: what each may be, and what it means. Notebooks, params.yaml and profiles are
checked against the definition. The values themselves stand in the notebooks' cells (toy size), params.yaml and profiles/.

A parameter changes no result by being checked, so nothing here is a dependency of a stage; and nothing here imports the code that
computes, so that a mistake is named before anything slow is loaded.
"""

from study.parameters.checking import check, check_stages, hint, mistakes_in_stages, refuse

__all__ = ["check", "check_stages", "hint", "mistakes_in_stages", "refuse"]
