"""SupCon, SCHaNe, CLCE, GenSCL and TCL, one function each, as close to the printed formula as code allows.

Symbols, the same in every docstring: z_i is the L2-normalised embedding of anchor i, s_ij = z_i . z_j / temperature,
A(i) all other rows of the batch, P(i) those of them with i's label (positives), N(i) those with another (negatives).
Several views of an image are simply more rows with the same label.

Every loss is the mean over the anchors that have a positive; with none it is 0 and still differentiable. Half precision
is computed in float32, float64 stays float64. Every loss is exact at any batch size, in memory that grows with N: the
log-sum-exps over pairs go tile by tile (supcl.pairwise), and what is linear in s_ij is a sum over classes, not pairs:

    sum_{p in P(i)} z_i . z_p = z_i . (S_{y_i} - z_i),    S_c the sum of the embeddings of class c

(A small batch is a single tile. There that part is added up over pairs after all, because it is quicker.)

Every loss takes `contrasts` (M, D) with their labels: then A(i), P(i) and N(i) are rows of these instead of the batch: a
queue of past embeddings, or embeddings gathered from all processes. `offset` says that anchor i is row offset + i of
contrasts, and no contrast of itself; None, that anchors are not among contrasts. Gradients flow to both. `tile` is the
number of rows and columns of a tile, chosen by itself; it changes nothing but rounding, time and memory.

An error names the argument, what was found and what was expected. Second derivatives and torch.func.vmap are refused;
under torch.compile the work on pairs stays as it is.
"""

import inspect
import math
import numbers

import torch
import torch.nn.functional as F

from supcl.pairwise import default_tile, pair_logsumexp, positive_sum, product, similarity_sums

NO_SIMILARITY = 1e-10  # an anchor whose label is similar to no other by more than this in total has no positive


def supcon_loss(embeddings, labels, *, temperature=0.1, form="out", contrasts=None, contrast_labels=None, offset=None, tile=None):
    """Supervised contrastive loss (Khosla et al., 2020, Eqs. 2 and 3).

    out:  mean_i  -1/|P(i)| sum_p log( exp(s_ip) / sum_{a in A(i)} exp(s_ia) )
    in:   mean_i  -log( 1/|P(i)| sum_p exp(s_ip) / sum_{a in A(i)} exp(s_ia) )

    embeddings   (N, D) float, any scale: normalised here.
    labels       (N,) integers. Two views of an image are two rows with one label.
    temperature  > 0, as it divides the cosine similarities. No factor of it multiplies the loss.
    contrasts    (M, D), contrast_labels (M,), offset, tile: see the top of this module.
    Returns a scalar. Raises ValueError where shapes, dtypes, values or settings do not fit.
    """
    _check_choice("form", form, {"out": "log outside the mean, Eq. 2", "in": "inside, Eq. 3"})
    _check_temperature(temperature)
    batch = _LabelledBatch(embeddings, labels, contrasts, contrast_labels, offset, tile)
    if form == "out" and batch.one_tile:
        same = batch.classes[:, None] == batch.contrast_classes
        return _soft_cross_entropy(batch, same.to(batch.anchors.dtype), temperature)
    if form == "out":
        (log_all,) = batch.logsumexp(temperature, ("others", 1))
        log_positive = batch.mean_positive(temperature)  # mean of logs
    else:
        log_all, log_positive = batch.logsumexp(temperature, ("others", 1), ("positives", 1))
        log_positive = log_positive - batch.positives.log()  # log of the mean
    return _mean(log_all - log_positive)


def schane_loss(
    embeddings,
    labels,
    *,
    temperature=0.5,
    hardness=1.0,
    positives="mean",
    contrasts=None,
    contrast_labels=None,
    offset=None,
    tile=None,
):
    """Supervised contrastive loss with hard negatives weighted up (SCHaNe, Long et al., 2023, released code).

    Each negative weighs w_in = exp(beta s_in) / mean_{n'} exp(beta s_in'), so an anchor's weights average one. With
    R_i = sum_n w_in exp(s_in), m_i = 1/|P(i)| sum_p exp(s_ip) and S_i = sum_p exp(s_ip):

    mean:  mean_i  -log( m_i / (m_i + R_i) )                the released code
    sum:   mean_i  -log( 1/|P(i)| S_i / (S_i + R_i) )       a third party's reading of CLCE; hardness 0 is SupCon's L_in

    embeddings   (N, D) float, any scale: normalised here.
    labels       (N,) integers.
    temperature  > 0. It also divides the similarities inside the weights, as in the released code.
    hardness     beta >= 0; 0 weighs every negative alike. The gradient flows through the weights.
    contrasts    (M, D), contrast_labels (M,), offset, tile: see the top of this module.
    Returns a scalar; an anchor without a negative has R_i = 0. Raises ValueError where something does not fit.
    """
    _check_choice("positives", positives, {"mean": "released SCHaNe", "sum": "the other reading"})
    _check_number("hardness", hardness, "a number >= 0, where 0 means no hard negatives", lambda h: h >= 0)
    _check_temperature(temperature)
    batch = _LabelledBatch(embeddings, labels, contrasts, contrast_labels, offset, tile)
    log_hard, log_weights, log_positive = batch.logsumexp(
        temperature, ("negatives", 1 + hardness), ("negatives", hardness), ("positives", 1)
    )
    # log R_i = log|N(i)| + log sum_n exp((1 + beta) s_in) - log sum_n exp(beta s_in); without negatives -inf
    log_negative = log_hard + (batch.negatives.log() - log_weights).masked_fill(batch.negatives == 0, 0)
    log_count = batch.positives.log()
    # -log(m / (m + R)) = -log sigmoid(log m - log R)
    if positives == "mean":
        return _mean(-F.logsigmoid(log_positive - log_count - log_negative))
    return _mean(log_count - F.logsigmoid(log_positive - log_negative))


def clce_loss(
    logits,
    embeddings,
    labels,
    *,
    weight=0.9,
    temperature=0.5,
    hardness=1.0,
    positives="mean",
    contrasts=None,
    contrast_labels=None,
    offset=None,
    tile=None,
):
    """Cross-entropy joined with the hard-negative contrastive loss (CLCE, Long et al., 2024; SCHaNe's released code).

    (1 - weight) * cross_entropy(logits, labels) + weight * schane_loss(embeddings, labels)

    logits  (N, C) float; labels from 0 to C - 1; the rest as in schane_loss. weight is CLCE's lambda, from 0 (pure
            cross-entropy) to 1.
    Returns a scalar. Raises ValueError where something does not fit.
    """
    _check_number("weight", weight, "0 (only cross-entropy) to 1 (only contrastive)", lambda w: 0 <= w <= 1)
    contrastive = schane_loss(
        embeddings,
        labels,
        temperature=temperature,
        hardness=hardness,
        positives=positives,
        contrasts=contrasts,
        contrast_labels=contrast_labels,
        offset=offset,
        tile=tile,
    )
    if not torch.is_tensor(logits) or logits.ndim != 2 or len(logits) != len(embeddings) or not logits.is_floating_point():
        raise ValueError(
            f"logits has {_found(logits)}; expected ({len(embeddings)}, classes) floating point, a row for each embedding."
        )
    if ((labels < 0) | (labels >= logits.shape[1])).any():
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}; expected 0 to {logits.shape[1] - 1}, the columns of logits."
        )
    cross_entropy = F.cross_entropy(_upcast(logits), labels.long())
    if not math.isfinite(cross_entropy.detach()):
        _check_finite("logits", logits)
    return (1 - weight) * cross_entropy + weight * contrastive


def genscl_loss(
    embeddings,
    label_distributions,
    *,
    temperature=0.1,
    contrasts=None,
    contrast_distributions=None,
    offset=None,
    tile=None,
):
    """Generalised supervised contrastive loss: labels are distributions (GenSCL, Kim et al., 2022, released code).

    mean_i  - sum_{j in A(i)} t_ij log( exp(s_ij) / sum_{a in A(i)} exp(s_ia) ),
    t_ij = c_ij / sum_{j' in A(i)} c_ij',   c_ij = q_i . q_j, the cosine of i's and j's label distributions

    With one-hot labels this is supcon_loss. The released code keeps anchors whose total similarity is zero in the mean
    and multiplies by temperature/0.07; here neither is done, and zero is anything below 1e-10.

    embeddings           (N, D) float, any scale: normalised here.
    label_distributions  (N, C) non-negative: one-hot, mixed, smoothed, or a teacher's probabilities; any scale.
    temperature          > 0.
    contrasts            (M, D), contrast_distributions (M, C), offset, tile: see the top of this module.
    Returns a scalar. Raises ValueError where shapes, dtypes or values do not fit.
    """
    _check_temperature(temperature)
    batch = _Batch(embeddings, contrasts, offset, tile)
    q = _distributions("label_distributions", label_distributions, "embeddings", batch.anchors)
    p = q
    if _given_together("contrast_distributions", contrast_distributions, contrasts):
        p = _distributions("contrast_distributions", contrast_distributions, "contrasts", batch.contrasts)
        if p.shape[1] != q.shape[1]:
            raise ValueError(
                f"contrast_distributions has {p.shape[1]} columns; expected {q.shape[1]}, those of label_distributions."
            )
    if batch.one_tile and not (q.requires_grad or p.requires_grad):
        return _soft_cross_entropy(batch, product(q, p.T), temperature)
    total, attraction = _similarity_sums(q, p, batch)
    if len(total) and total.amin().item() < 0.1:  # little is left after subtraction: float32 would lose its digits
        total, attraction = _similarity_sums(q.double(), p.double(), batch)
        batch.kept = total > NO_SIMILARITY
    log_positive = (batch.of_kept(attraction) / (batch.of_kept(total) * temperature)).to(batch.anchors.dtype)
    (log_all,) = batch.logsumexp(temperature, ("others", 1))
    return _mean(log_all - log_positive)


def _soft_cross_entropy(batch, c, temperature):
    """mean_i  -sum_j t_ij log( exp(s_ij) / sum_{a in A(i)} exp(s_ia) ),  t_ij = c_ij / sum_{j' in A(i)} c_ij'

    for a batch of one tile and its similarities of labels c (N, M); those of an anchor and itself are set to zero.
    """
    if batch.own is not None:
        c.diagonal(batch.own.start).zero_()
    total = c.sum(1)
    if total.amin().item() < NO_SIMILARITY:
        batch.kept = total > NO_SIMILARITY
    (log_all,), attraction = pair_logsumexp(
        batch.anchors, [("others", 1)], temperature=temperature, label_similarity=c, **batch.arguments
    )
    return _mean(batch.of_kept(log_all) - batch.of_kept(attraction) / batch.of_kept(total))


def _similarity_sums(q, p, batch):
    """sum_j c_ij and sum_j c_ij z_i . z_j over contrasts but i itself, in the precision of q."""
    return similarity_sums(batch.anchors.to(q.dtype), q, batch.contrasts.to(q.dtype), p, batch.own)


def tcl_loss(
    embeddings,
    labels,
    *,
    temperature=0.1,
    k1=5000.0,
    k2=1.0,
    contrasts=None,
    contrast_labels=None,
    offset=None,
    tile=None,
):
    """Tuned contrastive loss: hard positives and hard negatives weigh more (TCL, arXiv 2305.10675, 2025, released code).

    mean_i  -1/|P(i)| sum_p log( exp(s_ip) / D_i ),
    D_i = sum_p exp(s_ip) + k1 sum_p exp(-z_i . z_p) + k2 sum_{n in N(i)} exp(s_in)

    The sum of k1 is without a temperature, as released. With k1 = 0 and k2 = 1 this is supcon_loss.

    embeddings   (N, D) float, any scale: normalised here.
    labels       (N,) integers.
    temperature  > 0.
    k1           >= 0, raises the gradient from positives; the default is that of the released code.
    k2           >= 0, raises the gradient from hard negatives.
    contrasts    (M, D), contrast_labels (M,), offset, tile: see the top of this module.
    Returns a scalar. Raises ValueError where shapes, dtypes, values or settings do not fit.
    """
    _check_temperature(temperature)
    _check_number("k1", k1, "a number >= 0", lambda k: k >= 0)
    _check_number("k2", k2, "a number >= 0", lambda k: k >= 0)
    batch = _LabelledBatch(embeddings, labels, contrasts, contrast_labels, offset, tile)
    log_sums = batch.logsumexp(temperature, ("positives", 1), ("positives", -temperature), ("negatives", 1))
    log_d = (log_sums + log_sums.new_tensor([[1], [k1], [k2]]).log()).logsumexp(0)
    return _mean(log_d - batch.mean_positive(temperature))


class _Module(torch.nn.Module):
    """A loss that holds its settings. Tensors, offset included, are given to forward as to the function of the same name."""

    def __init__(self, **settings):
        super().__init__()
        known = inspect.signature(self.loss).parameters
        names = [name for name, p in known.items() if p.default not in (None, p.empty)] + ["tile"]
        if unknown := settings.keys() - set(names):
            raise TypeError(f"{type(self).__name__} has no setting {', '.join(sorted(unknown))}; expected {', '.join(names)}.")
        self.settings = {name: settings.get(name, known[name].default) for name in names}

    def forward(self, *tensors, **contrasts):
        return self.loss(*tensors, **self.settings, **contrasts)

    def extra_repr(self):
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items() if value is not None)


class SupConLoss(_Module):
    """supcon_loss as a module: SupConLoss(temperature=0.2)(embeddings, labels)."""

    loss = staticmethod(supcon_loss)


class SCHaNeLoss(_Module):
    """schane_loss as a module: SCHaNeLoss(hardness=0.5)(embeddings, labels)."""

    loss = staticmethod(schane_loss)


class CLCELoss(_Module):
    """clce_loss as a module: CLCELoss(weight=0.5)(logits, embeddings, labels)."""

    loss = staticmethod(clce_loss)


class GenSCLLoss(_Module):
    """genscl_loss as a module: GenSCLLoss(temperature=0.2)(embeddings, label_distributions)."""

    loss = staticmethod(genscl_loss)


class TCLLoss(_Module):
    """tcl_loss as a module: TCLLoss(k1=0.0, k2=2.0)(embeddings, labels)."""

    loss = staticmethod(tcl_loss)


class _Batch:
    """Anchors and contrasts, checked and normalised."""

    def __init__(self, embeddings, contrasts, offset, tile):
        _check_embeddings("embeddings", embeddings)
        if tile is not None and not (isinstance(tile, int) and tile > 0):
            raise ValueError(f"tile is {tile!r}; expected a whole number > 0, or None to have it chosen.")
        self.anchors = self.contrasts = _unit_rows("embeddings", embeddings)
        self.arguments = {"tile": tile or default_tile(embeddings.device)}  # of pair_logsumexp
        self.kept = None  # a mask of the anchors with a positive, where some have none
        if contrasts is None:
            if offset is not None:
                raise ValueError(f"offset is {offset!r} but contrasts is None; expected contrasts with the anchors among them.")
            self.own = slice(0, len(embeddings))
            return
        _check_embeddings("contrasts", contrasts)
        if contrasts.shape[1] != embeddings.shape[1]:
            raise ValueError(f"contrasts has {contrasts.shape[1]} columns; expected {embeddings.shape[1]}, as embeddings.")
        last = len(contrasts) - len(embeddings)
        if offset is not None and not (isinstance(offset, int) and 0 <= offset <= last):
            raise ValueError(
                f"offset is {offset!r} with {len(embeddings)} embeddings and {len(contrasts)} contrasts; expected a whole "
                f"number from 0 to {last}, or None where embeddings are not among contrasts."
            )
        self.contrasts = _unit_rows("contrasts", contrasts).to(self.anchors.dtype)
        self.arguments |= {"contrasts": self.contrasts, "offset": offset}
        self.own = None if offset is None else slice(offset, offset + len(embeddings))  # the anchors' rows of contrasts

    @property
    def one_tile(self):
        rows, columns = len(self.anchors), len(self.contrasts)
        return min(rows, columns) > 0 and max(rows, columns) <= self.arguments["tile"]

    def of_kept(self, x):
        """x (..., N) of the anchors with a positive."""
        return x if self.kept is None else x[..., self.kept]

    def logsumexp(self, temperature, *terms):
        """Log-sum-exps of s for anchors with a positive, a row for each term: see pair_logsumexp."""
        return self.of_kept(pair_logsumexp(self.anchors, terms, temperature=temperature, **self.arguments))


class _LabelledBatch(_Batch):
    """With labels: positives and negatives, how many contrasts each anchor with a positive has of them."""

    def __init__(self, embeddings, labels, contrasts, contrast_labels, offset, tile):
        super().__init__(embeddings, contrasts, offset, tile)
        _check_labels("labels", labels, "embeddings", embeddings)
        labels = other_labels = labels.long()
        if _given_together("contrast_labels", contrast_labels, contrasts):
            _check_labels("contrast_labels", contrast_labels, "contrasts", contrasts)
            other_labels = contrast_labels.long()
            if self.own is not None and not labels.equal(other_labels[self.own]):
                raise ValueError(
                    f"contrast_labels from row {offset} on differ from labels; expected the same, as offset says that "
                    "embeddings are these rows of contrasts."
                )
        # classes numbered from 0, and their sizes among contrasts
        if contrasts is None:
            _, self.classes, self.sizes = labels.unique(return_inverse=True, return_counts=True)
            self.contrast_classes = self.classes
        else:
            classes, numbers = torch.cat((labels, other_labels)).unique(return_inverse=True)
            self.classes, self.contrast_classes = numbers.split((len(labels), len(other_labels)))
            self.sizes = self.contrast_classes.bincount(minlength=len(classes))
        self.arguments |= {"labels": self.classes, "contrast_labels": self.contrast_classes}
        smallest = 1 if self.own is None else 2  # class with a positive for its members
        sizes = self.sizes.index_select(0, self.classes)
        if len(labels) and self.sizes.amin().item() < smallest:
            self.kept = sizes >= smallest
        self.class_sizes = self.of_kept(sizes).to(self.anchors.dtype)

    @property
    def positives(self):
        return self.class_sizes if self.own is None else self.class_sizes - 1

    @property
    def negatives(self):
        return len(self.contrast_classes) - self.class_sizes

    def mean_positive(self, temperature):
        """1/|P(i)| sum_p s_ip for anchors with a positive."""
        total = positive_sum(self.anchors, self.classes, self.contrasts, self.contrast_classes, self.sizes.shape[0], self.own)
        return self.of_kept(total) / (self.positives * temperature)


def _check_embeddings(name, x):
    if not torch.is_tensor(x) or x.ndim != 2 or x.shape[1] == 0 or not x.is_floating_point():
        raise ValueError(
            f"{name} has {_found(x)}; expected (N, D) floating point. "
            "Several views (N, V, D) become rows: embeddings.flatten(0, 1) with labels.repeat_interleave(V)."
        )
    if torch._C._functorch.is_batchedtensor(x):  # before the next check fails in terms of control flow
        raise ValueError(f"{name} is mapped by torch.func.vmap, which is not supported; call the loss once for each batch.")


def _check_finite(name, x):
    if not x.isfinite().all():
        raise ValueError(f"{name} has {int((~x.isfinite()).sum())} entries that are NaN or infinite; expected finite numbers.")


def _check_labels(name, labels, of, embeddings):
    if not torch.is_tensor(labels) or labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"{name} has {_found(labels)}; expected (N,) integers. For label distributions use genscl_loss.")
    if len(labels) != len(embeddings):
        hint = f" With two views per image, repeat the labels: {name}.repeat(2)." if len(embeddings) == 2 * len(labels) else ""
        raise ValueError(f"{name} has {len(labels)} entries but {of} has {len(embeddings)} rows.{hint}")


def _check_choice(name, value, choices):
    if value not in choices:
        expected = " or ".join(f'"{choice}" ({meaning})' for choice, meaning in choices.items())
        raise ValueError(f"{name} is {value!r}; expected {expected}.")


def _check_number(name, value, expected, fits):
    if not (isinstance(value, numbers.Real) and math.isfinite(value) and fits(value)):
        raise ValueError(f"{name} is {value}; expected {expected}.")


def _check_temperature(temperature):
    _check_number("temperature", temperature, "a number > 0, for example 0.1", lambda t: t > 0)


def _given_together(name, labels, contrasts):
    if (labels is None) != (contrasts is None):
        given, missing = ("contrasts", name) if labels is None else (name, "contrasts")
        raise ValueError(f"{missing} is None but {given} is given; expected both or neither.")
    return labels is not None


def _distributions(name, q, of, embeddings):
    """Checked, rows of length one, in the precision of embeddings."""
    if not torch.is_tensor(q) or q.ndim != 2 or len(q) != len(embeddings) or q.shape[1] == 0 or q.is_complex():
        raise ValueError(
            f"{name} has {_found(q)}; expected ({len(embeddings)}, classes) real numbers, a row for each of {of}. "
            "With integer labels: torch.nn.functional.one_hot(labels, classes)."
        )
    if q.numel() and q.amin().item() < 0:
        raise ValueError(f"{name} has negative entries; expected probabilities (logits need a softmax).")
    return _unit_rows(name, q).to(embeddings.dtype)


def _found(x):
    return f"shape {tuple(x.shape)} and dtype {x.dtype}" if torch.is_tensor(x) else f"type {type(x).__name__}"


def _upcast(x):
    return x if x.dtype == torch.float64 else x.float()


def _unit_rows(name, x):
    """Rows to length one in float32 or float64; zero rows stay zero."""
    x = _upcast(x)
    if not len(x):
        return x
    length = torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True)
    shortest, longest = length.aminmax()
    if not (shortest.item() > 1e-15 and longest.item() < 1e15):  # zeros or NaN, or squares that over- or underflow
        _check_finite(name, x)
        largest = x.detach().abs().amax(1, keepdim=True)
        x = x / torch.where(largest > 0, largest, 1)  # a row's length is now 0 or at least 1
        length = torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True).clamp(min=0.5)
    return _Unit.apply(x, length)


class _Unit(torch.autograd.Function):
    """x / length, rows by their lengths: as torch.nn.functional.normalize, in fewer steps."""

    @staticmethod
    def forward(ctx, x, length):
        z = x / length
        ctx.save_for_backward(z, length)
        return z

    @staticmethod
    def backward(ctx, grad):
        z, length = ctx.saved_tensors
        along = (grad * z).sum(1, keepdim=True)
        return torch.addcmul(grad, z, along, value=-1).div_(length), None


def _mean(per_anchor):
    """Of the anchors with a positive; 0 of none."""
    return per_anchor.mean() if len(per_anchor) else per_anchor.sum()
