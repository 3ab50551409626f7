"""The losses as torch modules: each holds its settings as attributes, which can be read and set at any time.

They are called as the functions are, and as other libraries call theirs:

    loss(embeddings, labels)            also with contrasts, contrast_labels and offset; see supcl.losses
    loss(features)                      (B, V, D), V views of each of B images. Without labels it is SimCLR's loss.
    loss(out0, out1)                    lightly's: two views (B, D) of the same B images, without labels
    loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)
                                        pytorch-metric-learning's, and so inside its CrossBatchMemory

What they cannot take over, such as a miner's pairs or a mask, is refused by an error that says what to write instead.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from supcl.losses import clce_loss, genscl_loss, schane_loss, supcon_loss, tcl_loss
from supcl.pairs import Engine


class _Loss(torch.nn.Module):
    """What the modules share: settings that are attributes, and that a printed module shows."""

    def __init__(self, unknown: dict[str, object], **settings: object) -> None:
        super().__init__()
        if unknown:
            raise TypeError(f"{type(self).__name__} has no setting {', '.join(sorted(unknown))}; expected {', '.join(settings)}.")
        self._names = tuple(settings)
        for name, value in settings.items():
            setattr(self, name, value)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name, as the function of the same name takes them."""
        return {name: getattr(self, name) for name in self._names}

    def extra_repr(self) -> str:
        default = {"engine": "auto", "block": None}
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items() if value != default.get(name, ...))


class _LabelledLoss(_Loss):
    """A loss of embeddings and integer labels, with the forms of call at the top of this module."""

    loss: Callable[..., Tensor]  # the function, which a subclass names

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: Sequence[Tensor] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        *,
        mask: None = None,
        contrasts: Tensor | None = None,
        contrast_labels: Tensor | None = None,
        offset: int | None = None,
    ) -> Tensor:
        if mask is not None or torch.is_tensor(indices_tuple):  # SupContrast's third argument is a mask
            raise ValueError(
                "mask is given; expected labels, from which the loss sees who is positive to whom: loss(features, labels). "
                "Where pairs are positive by degrees, write GenSCLLoss()(embeddings, label_distributions)."
            )
        if ref_emb is not None or ref_labels is not None:
            if contrasts is not None or contrast_labels is not None or offset is not None:
                raise ValueError("ref_emb and contrasts are both given; expected one of them, as both say whom to compare with.")
            contrasts, contrast_labels, offset = _references(labels, indices_tuple, ref_emb, ref_labels)
        elif indices_tuple is not None:
            raise ValueError(_MINED)
        embeddings, labels = _two_views(embeddings, labels)
        return self.loss(
            embeddings,
            _beside(embeddings, labels),
            contrasts=contrasts,
            contrast_labels=_beside(contrasts, contrast_labels),
            offset=offset,
            **self.settings,
        )


class SupConLoss(_LabelledLoss):
    """supcon_loss as a module: SupConLoss(0.2)(embeddings, labels)."""

    loss = staticmethod(supcon_loss)
    temperature: float
    form: Literal["out", "in"]
    engine: Engine
    block: int | None

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        form: Literal["out", "in"] = "out",
        engine: Engine = "auto",
        block: int | None = None,
        **unknown: object,
    ) -> None:
        super().__init__(unknown, temperature=temperature, form=form, engine=engine, block=block)


class SCHaNeLoss(_LabelledLoss):
    """schane_loss as a module: SCHaNeLoss(hardness=0.5)(embeddings, labels)."""

    loss = staticmethod(schane_loss)
    temperature: float
    hardness: float
    positives: Literal["mean", "sum"]
    engine: Engine
    block: int | None

    def __init__(
        self,
        temperature: float = 0.5,
        *,
        hardness: float = 1.0,
        positives: Literal["mean", "sum"] = "mean",
        engine: Engine = "auto",
        block: int | None = None,
        **unknown: object,
    ) -> None:
        super().__init__(unknown, temperature=temperature, hardness=hardness, positives=positives, engine=engine, block=block)


class TCLLoss(_LabelledLoss):
    """tcl_loss as a module: TCLLoss(k1=0.0, k2=2.0)(embeddings, labels)."""

    loss = staticmethod(tcl_loss)
    temperature: float
    k1: float
    k2: float
    engine: Engine
    block: int | None

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        k1: float = 5000.0,
        k2: float = 1.0,
        engine: Engine = "auto",
        block: int | None = None,
        **unknown: object,
    ) -> None:
        super().__init__(unknown, temperature=temperature, k1=k1, k2=k2, engine=engine, block=block)


class GenSCLLoss(_Loss):
    """genscl_loss as a module: GenSCLLoss(0.2)(embeddings, label_distributions)."""

    temperature: float
    engine: Engine
    block: int | None

    def __init__(self, temperature: float = 0.1, *, engine: Engine = "auto", block: int | None = None, **unknown: object) -> None:
        super().__init__(unknown, temperature=temperature, engine=engine, block=block)

    def forward(
        self,
        embeddings: Tensor,
        label_distributions: Tensor,
        *,
        contrasts: Tensor | None = None,
        contrast_distributions: Tensor | None = None,
        offset: int | None = None,
    ) -> Tensor:
        return genscl_loss(
            embeddings,
            label_distributions,
            contrasts=contrasts,
            contrast_distributions=contrast_distributions,
            offset=offset,
            **self.settings,
        )


class CLCELoss(_Loss):
    """clce_loss as a module: CLCELoss(weight=0.5)(logits, embeddings, labels)."""

    weight: float
    temperature: float
    hardness: float
    positives: Literal["mean", "sum"]
    engine: Engine
    block: int | None

    def __init__(
        self,
        temperature: float = 0.5,
        *,
        weight: float = 0.9,
        hardness: float = 1.0,
        positives: Literal["mean", "sum"] = "mean",
        engine: Engine = "auto",
        block: int | None = None,
        **unknown: object,
    ) -> None:
        super().__init__(
            unknown,
            weight=weight,
            temperature=temperature,
            hardness=hardness,
            positives=positives,
            engine=engine,
            block=block,
        )

    def forward(
        self,
        logits: Tensor,
        embeddings: Tensor,
        labels: Tensor,
        *,
        contrasts: Tensor | None = None,
        contrast_labels: Tensor | None = None,
        offset: int | None = None,
    ) -> Tensor:
        return clce_loss(
            logits, embeddings, labels, contrasts=contrasts, contrast_labels=contrast_labels, offset=offset, **self.settings
        )


_MINED = (
    "indices_tuple holds a choice of pairs, such as a miner's; expected None, because the loss compares every anchor with all: "
    "loss(embeddings, labels), and CrossBatchMemory(loss, embedding_size) without a miner. To weigh hard negatives more, write "
    "SCHaNeLoss(hardness=1.0)(embeddings, labels)."
)


def _two_views(embeddings: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """lightly's out0 and out1, which labels are not as they would be integers: (B, 2, D) without labels. Others as they are."""
    if torch.is_tensor(labels) and labels.ndim == 2 and labels.is_floating_point() and labels.shape == embeddings.shape:
        return torch.stack((embeddings, labels), 1), None
    return embeddings, labels


def _beside(embeddings: Tensor | None, labels: Tensor | None) -> Tensor | None:
    """Labels on the device of their embeddings: data loaders, and pytorch-metric-learning's wrappers, leave them on the CPU."""
    return labels.to(embeddings.device) if torch.is_tensor(labels) and torch.is_tensor(embeddings) else labels


def _references(
    labels: Tensor | None, indices_tuple: Sequence[Tensor] | None, ref_emb: Tensor | None, ref_labels: Tensor | None
) -> tuple[Tensor, Tensor, int | None]:
    """contrasts (M, D), contrast_labels (M,) and offset that pytorch-metric-learning's arguments stand for.

    There the pairs of an anchor with itself are those that indices_tuple leaves out. CrossBatchMemory keeps the anchors in
    rows of ref_emb that follow one another, past the last row the first, so turned by their beginning they stand at the top.
    """
    if labels is None or ref_emb is None or ref_labels is None:
        missing = "labels" if labels is None else "ref_emb" if ref_emb is None else "ref_labels"
        raise ValueError(f"{missing} is None; expected loss(embeddings, labels, ref_emb=..., ref_labels=...), all four.")
    if indices_tuple is None:
        return ref_emb, ref_labels, 0 if ref_labels is labels else None  # the same tensor, as there, says the same rows
    if len(indices_tuple) != 4:
        raise ValueError(_MINED)
    same = labels.reshape(-1, 1) == ref_labels.reshape(1, -1)  # (N, M)
    positive, negative = torch.zeros_like(same), torch.zeros_like(same)
    anchor, other, anchor_of_negative, other_of_negative = indices_tuple
    positive[anchor, other] = True
    negative[anchor_of_negative, other_of_negative] = True
    own = same & ~positive
    every_pair = negative.equal(~same) and not (positive & ~same).any()
    once = len(anchor) == positive.sum() and len(other_of_negative) == negative.sum()
    if every_pair and once and not own.any():
        return ref_emb, ref_labels, None
    row = own.int().argmax(1)  # (N,)
    following = (row[:1] + torch.arange(len(row), device=row.device)) % own.shape[1]
    if not (every_pair and once and (own.sum(1) == 1).all() and row.equal(following)):
        raise ValueError(_MINED)
    first = int(row[0])
    return ref_emb.roll(-first, 0), ref_labels.roll(-first, 0), 0
