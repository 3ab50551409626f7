"""SupCon, SCHaNe, CLCE, GenSCL and TCL: one function each, whose last lines are the formula.

Symbols, the same in every docstring: z_i is the embedding of anchor i, scaled to unit length; s_ij = z_i . z_j / temperature;
A(i) are the others, all rows of the batch but i; P(i) those of them with i's label (positives), N(i) those with another label
(negatives). Every loss is the mean over the anchors that have a positive. If none has, it is 0 and still differentiable.

Arguments that all losses share:

embeddings   (N, D) floating point, any length: they are normalised here. Or (B, V, D), V views of each of B images, which
             count as B * V rows. float16 and bfloat16 are computed in float32, float64 stays float64.
labels       (N,) or (N, 1) integers, or for views (B,) or (B, 1). None, for views alone: each image is a class of its own,
             and the loss is that of SimCLR.
temperature  > 0, as it divides the cosine similarities. No factor of it multiplies the loss.
contrasts    (M, D) with contrast_labels (M,): then A(i), P(i) and N(i) are rows of these instead of the batch, for example a
             queue of past embeddings, or the embeddings of all processes. Gradients flow to both.
offset       anchor i is row offset + i of contrasts, and no contrast of itself. None: anchors are not among contrasts.
engine       "readable" is plain torch: any derivative, any device, torch.compile, torch.export, torch.func. "tiled" is fast
             on a CPU, first derivatives only. "auto" takes tiles on a CPU for batches of more than one block.
block        rows of a block or a tile, chosen by itself; it changes nothing but rounding, time and memory.

Memory grows linearly with N in both engines. (Under torch.func, which cannot recompute, it grows with N x M.)

Every loss returns a scalar and raises ValueError where shapes, dtypes, values or settings do not fit. Values of tensors (NaN,
negative probabilities, labels beyond the logits) are checked on a CPU only, where reading them stops nothing, and not under
compilation or transforms. On a GPU the caller never waits for a check.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from supcl.pairs import Engine, LogSumExp, Mean, Pairs, check_choice, check_number, rows_of_logits


def supcon_loss(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 0.1,
    form: Literal["out", "in"] = "out",
    contrasts: Tensor | None = None,
    contrast_labels: Tensor | None = None,
    offset: int | None = None,
    engine: Engine = "auto",
    block: int | None = None,
) -> Tensor:
    """Supervised contrastive loss (Khosla et al., 2020, Eqs. 2 and 3).

    out:  mean_i  -1/|P(i)| sum_p log( exp(s_ip) / sum_{a in A(i)} exp(s_ia) )
    in:   mean_i  -log( 1/|P(i)| sum_p exp(s_ip) / sum_{a in A(i)} exp(s_ia) )

    embeddings, labels, temperature, contrasts, contrast_labels, offset, engine, block: see the top of this module.
    form  "out" takes the mean over positives outside the logarithm, "in" inside.
    """
    check_choice("form", form, {"out": "log outside the mean, Eq. 2", "in": "inside, Eq. 3"})
    pairs = Pairs(embeddings, labels, temperature, contrasts, contrast_labels, offset, engine, block)
    if form == "out":
        log_all, mean_positive = pairs.reduce(LogSumExp("others"), Mean("positives"))
        return pairs.mean(log_all - mean_positive)
    # The sum over A(i) is one over P(i) and one over N(i): -log( S_p / (S_p + S_n) ) = -log sigmoid(log S_p - log S_n)
    log_positive, log_negative = pairs.reduce(LogSumExp("positives"), LogSumExp("negatives"))
    return pairs.mean(pairs.positives.log() - F.logsigmoid(log_positive - log_negative))


def schane_loss(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 0.5,
    hardness: float = 1.0,
    positives: Literal["mean", "sum"] = "mean",
    contrasts: Tensor | None = None,
    contrast_labels: Tensor | None = None,
    offset: int | None = None,
    engine: Engine = "auto",
    block: int | None = None,
) -> Tensor:
    """Supervised contrastive loss with hard negatives weighted up (SCHaNe, Long et al., 2023, released code).

    Each negative weighs w_in = exp(beta s_in) / mean_{n'} exp(beta s_in'), so an anchor's weights average one. With
    R_i = sum_n w_in exp(s_in), m_i = 1/|P(i)| sum_p exp(s_ip) and S_i = sum_p exp(s_ip):

    mean:  mean_i  -log( m_i / (m_i + R_i) )                the released code
    sum:   mean_i  -log( 1/|P(i)| S_i / (S_i + R_i) )       a third party's reading of CLCE; hardness 0 is SupCon's L_in

    embeddings, labels, temperature, contrasts, contrast_labels, offset, engine, block: see the top of this module. The
    temperature also divides the similarities inside the weights, as in the released code.
    hardness   beta >= 0; 0 weighs every negative alike. The gradient flows through the weights.
    positives  "mean" or "sum", the two forms above. An anchor without a negative has R_i = 0.
    """
    check_choice("positives", positives, {"mean": "released SCHaNe", "sum": "the other reading"})
    check_number("hardness", hardness, "a number >= 0, where 0 means no hard negatives", lambda beta: beta >= 0)
    pairs = Pairs(embeddings, labels, temperature, contrasts, contrast_labels, offset, engine, block)
    log_positive, log_hard, log_weights = pairs.reduce(
        LogSumExp("positives"), LogSumExp("negatives", 1 + hardness), LogSumExp("negatives", hardness)
    )
    # log R_i = log|N(i)| + log sum_n exp((1 + beta) s_in) - log sum_n exp(beta s_in)
    log_rest = pairs.negatives.log() + log_hard - log_weights  # without negatives -inf
    log_count = pairs.positives.log()
    # -log( m / (m + R) ) = -log sigmoid(log m - log R)
    if positives == "mean":
        return pairs.mean(-F.logsigmoid(log_positive - log_count - log_rest))
    return pairs.mean(log_count - F.logsigmoid(log_positive - log_rest))


def clce_loss(
    logits: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    *,
    weight: float = 0.9,
    temperature: float = 0.5,
    hardness: float = 1.0,
    positives: Literal["mean", "sum"] = "mean",
    contrasts: Tensor | None = None,
    contrast_labels: Tensor | None = None,
    offset: int | None = None,
    engine: Engine = "auto",
    block: int | None = None,
) -> Tensor:
    """Cross-entropy joined with the hard-negative contrastive loss (CLCE, Long et al., 2024; SCHaNe's released code).

    (1 - weight) * cross_entropy(logits, labels) + weight * schane_loss(embeddings, labels)

    logits  (N, C) floating point, or (B, V, C) for views; labels then go from 0 to C - 1.
    weight  CLCE's lambda, from 0 (pure cross-entropy) to 1.
    The rest as in schane_loss.
    """
    check_number("weight", weight, "0 (only cross-entropy) to 1 (only contrastive)", lambda share: 0 <= share <= 1)
    contrastive = schane_loss(
        embeddings,
        labels,
        temperature=temperature,
        hardness=hardness,
        positives=positives,
        contrasts=contrasts,
        contrast_labels=contrast_labels,
        offset=offset,
        engine=engine,
        block=block,
    )
    logits, labels = rows_of_logits(logits, labels, embeddings)
    cross_entropy = F.cross_entropy(logits, labels) if len(logits) else logits.sum()  # which is 0, where a mean would be NaN
    return (1 - weight) * cross_entropy + weight * contrastive


def genscl_loss(
    embeddings: Tensor,
    label_distributions: Tensor,
    *,
    temperature: float = 0.1,
    contrasts: Tensor | None = None,
    contrast_distributions: Tensor | None = None,
    offset: int | None = None,
    engine: Engine = "auto",
    block: int | None = None,
) -> Tensor:
    """Generalised supervised contrastive loss: labels are distributions (GenSCL, Kim et al., 2022, released code).

    mean_i  - sum_{j in A(i)} t_ij log( exp(s_ij) / sum_{a in A(i)} exp(s_ia) ),
    t_ij = c_ij / sum_{j' in A(i)} c_ij',   c_ij = q_i . q_j, the cosine of i's and j's label distributions

    With one-hot labels this is supcon_loss. The released code keeps anchors whose total similarity is zero in the mean
    and multiplies by temperature/0.07; here neither is done, and zero is anything below 1e-10.

    embeddings, temperature, contrasts, offset, engine, block: see the top of this module.
    label_distributions  (N, C), or (B, C) for views (B, V, D): non-negative, one-hot, mixed, smoothed, or a teacher's
                         probabilities, any scale. contrast_distributions (M, C) likewise. Gradients flow to both, on the
                         readable engine.
    """
    pairs = Pairs(
        embeddings, label_distributions, temperature, contrasts, contrast_distributions, offset, engine, block, soft=True
    )
    log_all, mean_positive = pairs.reduce(LogSumExp("others"), Mean("positives"))  # positives by degrees: sum_j t_ij s_ij
    return pairs.mean(log_all - mean_positive)


def tcl_loss(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 0.1,
    k1: float = 5000.0,
    k2: float = 1.0,
    contrasts: Tensor | None = None,
    contrast_labels: Tensor | None = None,
    offset: int | None = None,
    engine: Engine = "auto",
    block: int | None = None,
) -> Tensor:
    """Tuned contrastive loss: hard positives and hard negatives weigh more (TCL, arXiv 2305.10675, 2025, released code).

    mean_i  -1/|P(i)| sum_p log( exp(s_ip) / D_i ),
    D_i = sum_p exp(s_ip) + k1 sum_p exp(-z_i . z_p) + k2 sum_{n in N(i)} exp(s_in)

    The sum of k1 is without a temperature, as released. With k1 = 0 and k2 = 1 this is supcon_loss.

    embeddings, labels, temperature, contrasts, contrast_labels, offset, engine, block: see the top of this module.
    k1  >= 0, raises the gradient from positives; the default is that of the released code.
    k2  >= 0, raises the gradient from hard negatives.
    """
    check_number("k1", k1, "a number >= 0", lambda k: k >= 0)
    check_number("k2", k2, "a number >= 0", lambda k: k >= 0)
    pairs = Pairs(embeddings, labels, temperature, contrasts, contrast_labels, offset, engine, block)
    log_positive, log_far, log_negative, mean_positive = pairs.reduce(
        LogSumExp("positives"), LogSumExp("positives", -temperature), LogSumExp("negatives"), Mean("positives")
    )
    log_k1, log_k2 = (torch.full_like(log_positive, k).log() for k in (k1, k2))  # -inf for 0
    log_d = torch.stack((log_positive, log_k1 + log_far, log_k2 + log_negative)).logsumexp(0)
    return pairs.mean(log_d - mean_positive)
