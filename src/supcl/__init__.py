"""Supervised contrastive losses that need torch alone.

Here live the losses as functions and as modules, the pairs they compare, and the engines that compute them.
Encoders, data, training, figures and everything else that the notebooks share live in the package `study`.
"""

from supcl.losses import clce_loss, genscl_loss, schane_loss, supcon_loss, tcl_loss
from supcl.modules import CLCELoss, GenSCLLoss, SCHaNeLoss, SupConLoss, TCLLoss

__version__ = "0.2.0"

__all__ = [
    "CLCELoss",
    "GenSCLLoss",
    "SCHaNeLoss",
    "SupConLoss",
    "TCLLoss",
    "clce_loss",
    "genscl_loss",
    "schane_loss",
    "supcon_loss",
    "tcl_loss",
]
