"""Supervised contrastive losses that need torch alone.

Here live the losses, the pairs they compare, and the engines that compute them.
Encoders, data, training, figures and everything else that the notebooks share live in the package `study`.
"""

from supcl.losses import clce_loss, genscl_loss, schane_loss, supcon_loss, tcl_loss

__version__ = "0.1.0"

__all__ = [
    "clce_loss",
    "genscl_loss",
    "schane_loss",
    "supcon_loss",
    "tcl_loss",
]
