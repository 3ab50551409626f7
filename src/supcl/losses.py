"""SupCon, SCHaNe, CLCE and GenSCL, one function each, as close to the printed formula as code allows.

Symbols, the same in every docstring: z_i is the L2-normalised embedding of anchor i, s_ij = z_i . z_j / temperature,
A(i) all other rows of the batch, P(i) those of them with i's label (positives), N(i) those with another (negatives).
Several views of an image are simply more rows with the same label.

Every loss is the mean over the anchors that have a positive; with none it is 0 and still differentiable. Half precision
is computed in float32, float64 stays float64. Everything is dense: memory and time grow with N^2.
"""

import torch
import torch.nn.functional as F


def supcon_loss(embeddings, labels, *, temperature=0.1, form="out"):
    """Supervised contrastive loss (Khosla et al., 2020, Eqs. 2 and 3).

    out:  mean_i  -1/|P(i)| sum_p log( exp(s_ip) / sum_{a in A(i)} exp(s_ia) )
    in:   mean_i  -log( 1/|P(i)| sum_p exp(s_ip) / sum_{a in A(i)} exp(s_ia) )

    embeddings   (N, D) float, any scale: normalised here.
    labels       (N,) integers. Two views of an image are two rows with one label.
    temperature  > 0, as it divides the cosine similarities. No factor of it multiplies the loss.
    Returns a scalar. Raises ValueError where shapes, dtypes or settings do not fit.
    """
    if form not in ("out", "in"):
        raise ValueError(f'form is {form!r}; expected "out" (log outside the mean, Eq. 2) or "in" (inside, Eq. 3).')
    _check_labels(embeddings, labels)
    s, others = _similarities(embeddings, temperature)
    positive = (labels[:, None] == labels) & others
    count = positive.sum(1).clamp(min=1).to(s.dtype)  # of integers, log() would be float32

    log_all = _logsumexp(s, others)
    if form == "out":
        log_positive = (s * positive).sum(1) / count  # mean of logs
    else:
        log_positive = _logsumexp(s, positive) - count.log()  # log of the mean
    return _mean_over(positive.any(1), log_all - log_positive)


def schane_loss(embeddings, labels, *, temperature=0.5, hardness=1.0, positives="mean"):
    """Supervised contrastive loss with hard negatives weighted up (SCHaNe, Long et al., 2023, released code).

    Each negative weighs w_in = exp(beta s_in) / mean_{n'} exp(beta s_in'), so an anchor's weights average one. With
    R_i = sum_n w_in exp(s_in), m_i = 1/|P(i)| sum_p exp(s_ip) and S_i = sum_p exp(s_ip):

    mean:  mean_i  -log( m_i / (m_i + R_i) )                the released code
    sum:   mean_i  -log( 1/|P(i)| S_i / (S_i + R_i) )       a third party's reading of CLCE; hardness 0 is SupCon's L_in

    embeddings   (N, D) float, any scale: normalised here.
    labels       (N,) integers.
    temperature  > 0. It also divides the similarities inside the weights, as in the released code.
    hardness     beta >= 0; 0 weighs every negative alike. The gradient flows through the weights.
    Returns a scalar; an anchor without a negative has R_i = 0. Raises ValueError where something does not fit.
    """
    if positives not in ("mean", "sum"):
        raise ValueError(f'positives is {positives!r}; expected "mean" (released SCHaNe) or "sum".')
    if not hardness >= 0:
        raise ValueError(f"hardness is {hardness}; expected a number >= 0, where 0 means no hard negatives.")
    _check_labels(embeddings, labels)
    s, others = _similarities(embeddings, temperature)
    same = labels[:, None] == labels
    positive, negative = same & others, ~same
    log_count, log_negatives = (pairs.sum(1).clamp(min=1).to(s.dtype).log() for pairs in (positive, negative))

    # log R_i = log|N(i)| + log sum_n exp((1 + beta) s_in) - log sum_n exp(beta s_in)
    log_negative = log_negatives + _logsumexp((1 + hardness) * s, negative) - _logsumexp(hardness * s, negative)
    log_positive = _logsumexp(s, positive)
    if positives == "mean":
        log_positive, constant = log_positive - log_count, 0
    else:
        constant = log_count
    # -log(m / (m + R)) = log(1 + R/m)
    per_anchor = torch.where(negative.any(1), F.softplus(log_negative - log_positive), 0) + constant
    return _mean_over(positive.any(1), per_anchor)


def clce_loss(logits, embeddings, labels, *, weight=0.9, temperature=0.5, hardness=1.0, positives="mean"):
    """Cross-entropy joined with the hard-negative contrastive loss (CLCE, Long et al., 2024; SCHaNe's released code).

    (1 - weight) * cross_entropy(logits, labels) + weight * schane_loss(embeddings, labels)

    logits  (N, C) float; the rest as in schane_loss. weight is CLCE's lambda, from 0 (pure cross-entropy) to 1.
    Returns a scalar. Raises ValueError where something does not fit.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight}; expected 0 (only cross-entropy) to 1 (only contrastive).")
    if logits.ndim != 2 or len(logits) != len(embeddings):
        raise ValueError(
            f"logits has shape {tuple(logits.shape)}; expected ({len(embeddings)}, classes), a row for each embedding."
        )
    contrastive = schane_loss(embeddings, labels, temperature=temperature, hardness=hardness, positives=positives)
    return (1 - weight) * F.cross_entropy(_upcast(logits), labels.long()) + weight * contrastive


def genscl_loss(embeddings, label_distributions, *, temperature=0.1):
    """Generalised supervised contrastive loss: labels are distributions (GenSCL, Kim et al., 2022, released code).

    mean_i  - sum_{j in A(i)} t_ij log( exp(s_ij) / sum_{a in A(i)} exp(s_ia) ),
    t_ij = c_ij / sum_{j' in A(i)} c_ij',   c_ij = cosine of i's and j's label distributions

    With one-hot labels this is supcon_loss. The released code keeps anchors whose total similarity is zero in the mean
    and multiplies by temperature/0.07; here neither is done.

    embeddings           (N, D) float, any scale: normalised here.
    label_distributions  (N, C) non-negative: one-hot, mixed, smoothed, or a teacher's probabilities; any scale.
    Returns a scalar. Raises ValueError where shapes, dtypes or values do not fit.
    """
    if label_distributions.ndim != 2 or len(label_distributions) != len(embeddings):
        raise ValueError(
            f"label_distributions has shape {tuple(label_distributions.shape)}; expected ({len(embeddings)}, classes), "
            "a row for each embedding. With integer labels: torch.nn.functional.one_hot(labels, classes)."
        )
    if (label_distributions < 0).any():
        raise ValueError("label_distributions has negative entries; expected probabilities (logits need a softmax).")
    s, others = _similarities(embeddings, temperature)
    q = _normalise(label_distributions.to(s.dtype))
    similarity = _products(q) * others  # c_ij, (N, N)
    total = similarity.sum(1)

    log_all = _logsumexp(s, others)
    log_positive = (similarity * s).sum(1) / torch.where(total > 0, total, 1)
    return _mean_over(total > 0, log_all - log_positive)


def _check_labels(embeddings, labels):
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} and dtype {labels.dtype}; expected (N,) integers. "
            "For label distributions use genscl_loss."
        )
    if len(labels) != len(embeddings):
        hint = " With two views per image, repeat the labels: labels.repeat(2)." if len(embeddings) == 2 * len(labels) else ""
        raise ValueError(f"labels has {len(labels)} entries but embeddings has {len(embeddings)} rows.{hint}")


def _similarities(embeddings, temperature):
    """s_ij (N, N), and the mask of pairs that are not an anchor with itself."""
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise ValueError(
            f"embeddings has shape {tuple(embeddings.shape)} and dtype {embeddings.dtype}; expected (N, D) floating point. "
            "Several views (N, V, D) become rows: embeddings.flatten(0, 1) with labels.repeat_interleave(V)."
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a number > 0, for example 0.1.")
    z = _normalise(_upcast(embeddings))
    return _products(z) / temperature, ~torch.eye(len(z), dtype=torch.bool, device=z.device)


def _products(x):
    """x @ x.T in x's own precision, which autocast would lower to half."""
    with torch.autocast(x.device.type, enabled=False):
        return x @ x.T


def _upcast(x):
    return x if x.dtype == torch.float64 else x.float()


def _normalise(x):
    """Rows to length one; zero rows stay zero. Scaled by the largest entry first, so no square over- or underflows."""
    largest = x.detach().abs().amax(1, keepdim=True)
    x = x / torch.where(largest > 0, largest, 1)  # a row's length is now 0 or at least 1
    return x / x.norm(dim=1, keepdim=True).clamp(min=0.5)


def _logsumexp(s, pairs):
    """Log-sum-exp of each row over `pairs`. A row without any gets a finite value with a finite gradient, to be dropped."""
    return s.masked_fill(~pairs & pairs.any(1, keepdim=True), float("-inf")).logsumexp(1)


def _mean_over(anchors, per_anchor):
    return torch.where(anchors, per_anchor, 0).sum() / anchors.sum().clamp(min=1)
