"""Until study.methods has the registry: what the analysis needs of it."""

from types import SimpleNamespace

METHODS = {
    name: SimpleNamespace(name=name, key=key, colour=colour, tried=tried)
    for name, key, colour, tried in (
        ("CE", "cross_entropy", "#4d4d4d", "label_smoothing"),
        ("SupCon", "supcon", "#0072b2", "temperature"),
        ("SCHaNe", "schane", "#d55e00", "hardness"),
        ("CLCE", "clce", "#009e73", "loss_weight"),
        ("GenSCL", "genscl", "#aa4499", "temperature"),
    )
}
