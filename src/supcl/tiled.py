"""The fast engine behind Pairs: the same sums over pairs, with forward and backward passes written by hand.

logsumexp      in tiles of similarities small enough for a processor's cache, which the backward pass computes again. Where
               contrasts are the anchors themselves, s is symmetric: only tiles on and above the diagonal are computed, and
               each serves its rows and its columns. With L_i = log sum_j exp(factor s_ij) and W_ij = exp(factor s_ij - L_i):

               dL_i/da_i = factor / temperature sum_j W_ij c_j,    dL_i/dc_j = factor / temperature W_ij a_i

mean_positive  is linear in the contrasts, so no pair is visited: it is a product with sums over classes, less the anchor
               itself. That subtraction can cancel most digits, which is why these sums are in float64.

Neither has second derivatives. Both keep the precision of their inputs under autocast, which Pairs switches off.
"""

import torch

BOUNDED = 40  # exp(-40), exp(40) and sums of millions of them fit float32: exponents up to this need no shift
LOWEST = -1e38  # stands for minus infinity among exponents, as differences of infinities are not numbers


def logsumexp(pairs, terms):
    """log sum_j exp(factor s_ij) for each of the terms (over, factor) and each anchor: (terms, N)."""
    labelled = any(over != "others" for over, _ in terms)
    rows = columns = _Side(pairs.anchors, pairs.labels if labelled else None, pairs.block)
    if not pairs.symmetric:
        columns = _Side(pairs.contrasts, pairs.contrast_labels if labelled else None, pairs.block)
    tiles = _Tiles(rows, columns, pairs.offset, pairs.symmetric)
    return _LogSumExp.apply(pairs.anchors, pairs.contrasts, tiles, terms, pairs.temperature)


def mean_positive(pairs, positives):
    """sum_j c_ij s_ij / sum_j c_ij for each anchor, where positives holds the latter sums: (N,)."""
    labels, contrast_labels, classes = pairs.labels, pairs.contrast_labels, pairs.labels.shape[-1]
    if labels.ndim == 1:  # numbered from 0
        names, numbers = torch.cat((labels, contrast_labels)).unique(return_inverse=True)
        (labels, contrast_labels), classes = numbers.split((len(labels), len(contrast_labels))), len(names)
    own = None if pairs.offset is None else slice(pairs.offset, pairs.offset + len(labels))
    mean = _MeanPositive.apply(pairs.anchors, pairs.contrasts, labels, contrast_labels, positives, classes, own, pairs.block)
    return mean / pairs.temperature


def count_positives(pairs):
    """The number of each anchor's positives, or sum_j c_ij of label distributions: (N,)."""
    if pairs.labels.ndim == 1:
        ordered = pairs.contrast_labels.sort().values
        first, end = (torch.searchsorted(ordered, pairs.labels, right=right) for right in (False, True))
        return (end - first - (0 if pairs.offset is None else 1)).to(pairs.anchors.dtype)
    everyone = pairs.contrast_labels.sum(0, dtype=torch.float64)
    totals = torch.empty_like(pairs.anchors[:, 0])
    for rows in _blocks(len(totals), pairs.block):
        others = everyone
        if pairs.offset is not None:
            others = everyone - pairs.contrast_labels[rows.start + pairs.offset : rows.stop + pairs.offset]
        totals[rows] = (pairs.labels[rows] * others).sum(1)
    return totals


class _Side:
    """The rows of s or its columns, cut into blocks: (slice, first, last). With labels they are sorted by them, so that few
    blocks have a class in common; first and last are a block's smallest and largest label. Without, they are positions."""

    def __init__(self, x, labels, size):
        self.device, self.labels, self.order = x.device, labels, None
        ends = [len(x)]
        if labels is not None:
            self.labels, self.order = labels.sort()
            ends = self.labels.unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
        values = torch.arange(len(x), device=x.device) if labels is None else self.labels
        self.blocks = [(rows, int(values[rows.start]), int(values[rows.stop - 1])) for rows in _class_blocks(ends, size)]

    def sort(self, x, dim=0):
        return x if self.order is None else x.index_select(dim, self.order)

    def unsort(self, x, dim=0):
        return x if self.order is None else torch.empty_like(x).index_copy_(dim, self.order, x)

    def positions(self, block):
        return torch.arange(block.start, block.stop, device=self.device) if self.order is None else self.order[block]


def _blocks(rows, size):
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _class_blocks(class_ends, size):
    """Cuts sorted rows into blocks of at most `size`. A block ends where a class ends, if it is more than half full by then, as
    tiles that have classes in common cost more."""
    blocks, start, previous = [], 0, 0
    for end in class_ends:
        while end > start + size:
            stop = previous if previous > start + size // 2 else start + size
            blocks.append(slice(start, stop))
            start = stop
        previous = end
    return [*blocks, slice(start, previous)] if previous else []


class _Tiles:
    def __init__(self, rows, columns, offset, symmetric):
        self.rows, self.columns, self.offset, self.symmetric = rows, columns, offset, symmetric

    def visit(self, terms):
        """For each tile: slices a of rows and b of columns, and the terms that have pairs in it, as (k, factor, mask of pairs
        left out or None, whether the diagonal is left out)."""
        shift = 0 if self.rows.labels is not None or self.offset is None else self.offset
        for i, (a, first, last) in enumerate(self.rows.blocks):
            for b, first_column, last_column in self.columns.blocks[i if self.symmetric else 0 :]:
                without = {"others": (None, False), "negatives": (None, False)}  # no class in common
                if first + shift <= last_column and first_column <= last + shift:
                    without = self._left_out(a, b)
                parts = [(k, factor, *without[over]) for k, (over, factor) in enumerate(terms) if over in without]
                if parts:
                    yield a, b, parts

    def _left_out(self, a, b):
        itself, diagonal = None, self.symmetric and a == b
        if not self.symmetric and self.offset is not None:
            itself = self.rows.positions(a)[:, None] + self.offset == self.columns.positions(b)
        if self.rows.labels is None:
            return {"others": (itself, diagonal)}
        same = self.rows.labels[a, None] == self.columns.labels[b]
        other = ~same if itself is None else ~same | itself
        return {"others": (itself, diagonal), "positives": (other, diagonal), "negatives": (same, False)}


class _LogSumExp(torch.autograd.Function):
    """The log-sum-exp is kept as largest + log(sums), which loses no digits where exponents are large. Exponents that are
    bounded need no shift: largest is 0."""

    @staticmethod
    def forward(ctx, anchors, contrasts, tiles, terms, temperature):
        x = tiles.rows.sort(anchors)
        y = x if tiles.symmetric else tiles.columns.sort(contrasts)
        bounded = [abs(factor) <= BOUNDED * temperature for _, factor in terms]
        sums, largest = x.new_zeros(2, len(terms), len(x))
        for k in range(len(terms)):
            largest[k] = 0 if bounded[k] else LOWEST
        scratch = _Scratch(x)
        for a, b, parts in tiles.visit(terms):
            s = scratch.products(x[a], y[b], 1 / temperature)
            sides = [(a, 1)] if not tiles.symmetric or a == b else [(a, 1), (b, 0)]
            for k, factor, mask, diagonal in parts:
                e = (
                    scratch.exponentials(s, factor, mask, diagonal)
                    if bounded[k]
                    else scratch.exponents(s, factor, mask, diagonal)
                )
                for block, dim in sides:
                    if bounded[k]:
                        sums[k, block] += e.sum(dim)
                    else:
                        old = largest[k, block]
                        new = torch.maximum(old, e.amax(dim))
                        shifted = torch.sub(e, new.unsqueeze(dim), out=scratch("shifted", *e.shape)).exp_()
                        sums[k, block] = sums[k, block] * (old - new).exp() + shifted.sum(dim)
                        largest[k, block] = new
        sums.masked_fill_(largest == LOWEST, 0)  # the sum over no pair
        ctx.save_for_backward(anchors, contrasts, sums, largest)
        ctx.tiles, ctx.terms, ctx.temperature, ctx.bounded = tiles, terms, temperature, bounded
        return tiles.rows.unsort((largest + sums.log()).clamp_(min=LOWEST), dim=1)

    @staticmethod
    def backward(ctx, grad):
        _refuse_second_derivatives()
        anchors, contrasts, sums, largest = ctx.saved_tensors
        tiles, symmetric = ctx.tiles, ctx.tiles.symmetric
        x = tiles.rows.sort(anchors)
        y = x if symmetric else tiles.columns.sort(contrasts)
        grad_x = torch.zeros_like(x)
        grad_y = grad_x if symmetric else torch.zeros_like(y)
        # g_i W_ij = share_i exp(factor s_ij - largest_i); the gradient of a sum over no pair, NaN included, stops here
        share = (tiles.rows.sort(grad, dim=1) / sums).masked_fill_(sums == 0, 0)
        scratch = _Scratch(x)
        for a, b, parts in tiles.visit(ctx.terms):
            s = scratch.products(x[a], y[b], 1 / ctx.temperature)
            weights = scratch("weights", *s.shape).zero_()  # dloss/ds: sum over terms of factor (g_i W_ij + g_j W_ji)
            for k, factor, mask, diagonal in parts:
                if ctx.bounded[k]:
                    e = scratch.exponentials(s, factor, mask, diagonal)
                    weights.addcmul_(e, share[k, a, None], value=factor)
                    if symmetric:
                        weights.addcmul_(e, share[k, b], value=factor)
                else:
                    e, shifted = scratch.exponents(s, factor, mask, diagonal), scratch("shifted", *s.shape)
                    torch.sub(e, largest[k, a, None], out=shifted).exp_()
                    weights.addcmul_(shifted, share[k, a, None], value=factor)
                    if symmetric:
                        weights.addcmul_(e.sub_(largest[k, b]).exp_(), share[k, b], value=factor)
            grad_x[a].addmm_(weights, y[b], alpha=1 / ctx.temperature)
            if not (symmetric and a == b):  # a tile on the diagonal is its own mirror image
                grad_y[b].addmm_(weights.T, x[a], alpha=1 / ctx.temperature)
        grad_anchors = tiles.rows.unsort(grad_x)  # if symmetric, with what embeddings get as contrasts
        return grad_anchors, None if symmetric else tiles.columns.unsort(grad_y), None, None, None


class _Scratch:
    """Memory for tiles, by name, used again: getting it anew for every tile would double the time."""

    def __init__(self, like):
        self.like, self.memory = like, {}

    def __call__(self, name, *shape):
        memory, size = self.memory.get(name), shape[0] * shape[1]
        if memory is None or memory.numel() < size:
            memory = self.memory[name] = self.like.new_empty(size)
        return memory[:size].view(shape)

    def products(self, x, y, scale):
        s = self("products", len(x), len(y))
        return torch.addmm(s, x, y.T, beta=0, alpha=scale, out=s)

    def exponentials(self, s, factor, mask, diagonal):
        e = self("exponents", *s.shape)
        return _leave_out(torch.exp(s, out=e) if factor == 1 else torch.mul(s, factor, out=e).exp_(), mask, diagonal, 0)

    def exponents(self, s, factor, mask, diagonal):
        return _leave_out(torch.mul(s, factor, out=self("exponents", *s.shape)), mask, diagonal, LOWEST)


def _leave_out(e, mask, diagonal, value):
    if mask is not None:
        e.masked_fill_(mask, value)
    return e.fill_diagonal_(value) if diagonal else e


class _MeanPositive(torch.autograd.Function):
    """a_i . m_i for anchors a, with m_i = (sum_j c_ij x_j - c_ii x_i) / positives_i for contrasts x."""

    @staticmethod
    def forward(ctx, anchors, contrasts, labels, contrast_labels, positives, classes, own, size):
        by_class = _class_sums(contrasts, contrast_labels, classes, size)
        means = torch.empty_like(anchors)
        for rows in _blocks(len(anchors), size):
            total = _of_labels(by_class, labels[rows])  # (B, D)
            if own is not None:
                total -= _cosines(labels[rows], contrast_labels[own][rows]) * contrasts[own][rows]
            means[rows] = total / positives[rows, None].clamp(min=1e-10)
        ctx.save_for_backward(anchors, means, labels, contrast_labels, positives)
        ctx.settings = classes, own, size
        return (anchors * means).sum(1)

    @staticmethod
    def backward(ctx, grad):
        _refuse_second_derivatives()
        anchors, means, labels, contrast_labels, positives = ctx.saved_tensors
        classes, own, size = ctx.settings
        pull = anchors * (grad / positives.clamp(min=1e-10))[:, None]
        by_class = _class_sums(pull, labels, classes, size)
        grad_contrasts = anchors.new_empty(len(contrast_labels), anchors.shape[1])
        for rows in _blocks(len(contrast_labels), size):
            grad_contrasts[rows] = _of_labels(by_class, contrast_labels[rows])
        if own is not None:
            grad_contrasts[own] -= pull * _cosines(labels, contrast_labels[own])
        return grad[:, None] * means, grad_contrasts, *[None] * 6


def _class_sums(x, labels, classes, size):
    """sum_j labels_jc x_j for each class c, in float64: (C, D)."""
    sums = x.new_zeros(classes, x.shape[1], dtype=torch.float64)
    for rows in _blocks(len(x), size):
        if labels.ndim == 1:
            sums.index_add_(0, labels[rows], x[rows].double())
        else:
            sums.addmm_(labels[rows].T.double(), x[rows].double())
    return sums


def _of_labels(sums, labels):
    """sum_c labels_ic sums_c for each row i, in float64: (B, D)."""
    return sums.index_select(0, labels) if labels.ndim == 1 else labels.double() @ sums


def _cosines(labels, others):
    """c of row i of labels and row i of others: (B, 1), and 1 for classes."""
    return 1 if labels.ndim == 1 else (labels * others).sum(1, keepdim=True, dtype=torch.float64)


def _refuse_second_derivatives():
    if torch.is_grad_enabled():  # as it is under create_graph=True
        raise RuntimeError('Second derivatives need engine="readable"; the tiled engine has the first alone.')
