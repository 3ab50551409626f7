"""What the notebooks share beside the losses: data, training, runs, probes, analysis, figures and the pipeline's commands.

The losses live in `supcl`, which knows nothing of this package. An experiment lives in its notebook.
"""
