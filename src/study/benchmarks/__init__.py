"""Time and memory of the losses and of training, beside other implementations, and estimates for the papers' sizes.

No result of the study depends on this package.
"""
