"""The fast engine behind Pairs: the same sums over pairs, with forward and backward passes written by hand.

Similarities are computed in tiles small enough for a processor's cache, and the backward pass computes them again. Where
contrasts are the anchors themselves, s is symmetric: only tiles on and above the diagonal are computed, and each serves its
rows and its columns. With L_i = log sum_j exp(factor s_ij), W_ij = exp(factor s_ij - L_i), and m_i = sum_j t_ij s_ij the mean
over positives, t_ij = c_ij / sum_j' c_ij':

    dL_i/da_i = factor / temperature sum_j W_ij x_j,    dL_i/dx_j = factor / temperature W_ij a_i
    dm_i/da_i = 1 / temperature sum_j t_ij x_j,         dm_i/dx_j = 1 / temperature t_ij a_i

for anchors a and contrasts x. In a tight cluster these nearly cancel, so weights are added up pair by pair before they meet
the embeddings. There are no second derivatives.
"""

import torch

BOUNDED = 40  # exp(-40), exp(40) and sums of millions of them fit float32: exponents up to this need no shift
NOTHING = -80  # exp(-80) adds nothing to a sum of at least 1; below, exp() is many times slower
LOWEST = -1e38  # the log-sum-exp over no pair: minus infinity, but finite, so that differences and gradients are numbers
NO_SIMILARITY = 1e-10  # an anchor whose label is similar to no other by more than this in total has no positive


def reduce(pairs, terms, mean):
    """log sum_j exp(factor s_ij) for the terms (over, factor): (terms, N). If `mean`, the mean over positives: (N,), otherwise
    None. And the positives of each anchor: (N,)."""
    degrees = (pairs.labels, pairs.contrast_labels) if pairs.labels.ndim == 2 else None
    classes, contrast_classes = (pairs.labels, pairs.contrast_labels) if degrees is None else (None, None)
    rows = columns = _Side(pairs.anchors, classes, pairs.block)
    if not pairs.symmetric:
        columns = _Side(pairs.contrasts, contrast_classes, pairs.block)
    tiles = _Tiles(rows, columns, pairs.offset, pairs.symmetric)
    positives = _count_positives(pairs) if degrees is None else _total_similarity(pairs)
    divisor = positives.clamp(min=NO_SIMILARITY) if mean else None
    value = _mean_positive(pairs, divisor) if mean else None
    logs, value = _Reduce.apply(pairs.anchors, pairs.contrasts, tiles, terms, pairs.temperature, value, divisor, degrees)
    return logs, value, positives


def _count_positives(pairs):
    """|P(i)|: (N,)."""
    ordered = pairs.contrast_labels.sort().values
    first, end = (torch.searchsorted(ordered, pairs.labels, right=right) for right in (False, True))
    return (end - first - (0 if pairs.offset is None else 1)).to(pairs.anchors.dtype)


def _total_similarity(pairs):
    """sum_j c_ij = q_i . sum_j p_j, the anchor itself left out: (N,). In float64, as little may be left."""
    everyone = pairs.contrast_labels.sum(0, dtype=torch.float64)
    totals = pairs.anchors.new_empty(len(pairs.anchors))
    for rows in _blocks(len(totals), pairs.block):
        itself = 0 if pairs.offset is None else _own_rows(pairs.contrast_labels, rows, pairs.offset)
        totals[rows] = (pairs.labels[rows] * (everyone - itself)).sum(1)
    return totals


@torch.no_grad()
def _mean_positive(pairs, positives):
    """sum_j c_ij s_ij / sum_j c_ij: linear in the contrasts, so no pair is visited, but their sums over classes. (N,)"""
    x, labels, contrast_labels = pairs.contrasts, pairs.labels, pairs.contrast_labels
    if labels.ndim == 1:
        names, numbers = torch.cat((labels, contrast_labels)).unique(return_inverse=True)
        labels, contrast_labels = numbers.split((len(labels), len(contrast_labels)))
        by_class = x.new_zeros(len(names), x.shape[1], dtype=torch.float64).index_add_(0, contrast_labels, x.double())
    else:
        # After the subtraction below little may be left, of which float32 would lose the digits
        labels, contrast_labels = (q.double() if (positives < 0.1).any() else q for q in (labels, contrast_labels))
        by_class = sum(contrast_labels[b].T @ x[b].to(labels.dtype) for b in _blocks(len(x), pairs.block))  # (C, D)
    means = pairs.anchors.new_empty(len(pairs.anchors))
    for rows in _blocks(len(means), pairs.block):
        a, q = pairs.anchors[rows], labels[rows]
        total = a * (by_class[q] if q.ndim == 1 else q @ by_class)  # (B, D)
        if pairs.offset is not None:
            own = 1 if q.ndim == 1 else (q * _own_rows(contrast_labels, rows, pairs.offset)).sum(1, keepdim=True)
            total -= own * (a.to(total.dtype) * _own_rows(x, rows, pairs.offset))
        means[rows] = total.sum(1) / positives[rows] / pairs.temperature
    return means


def _own_rows(x, rows, offset):
    """The rows of contrasts that are these anchors."""
    return x[rows.start + offset : rows.stop + offset]


class _Side:
    """The rows of s or its columns, cut into blocks: (slice, first, last). With labels they are sorted by them, so that few
    blocks have a class in common; first and last are a block's smallest and largest label. Without, they are positions."""

    def __init__(self, x, labels, size):
        self.device, self.labels, self.order = x.device, labels, None
        ends, values = [len(x)], range(len(x))
        if labels is not None:
            self.labels, self.order = labels.sort()
            ends = self.labels.unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
            values = self.labels
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

    def visit(self, relations):
        """For each tile that has pairs of these relations: slices a of rows and b of columns, and by relation what it leaves out
        there: a mask or None, and whether the diagonal. A relation without pairs in the tile is missing."""
        shift = 0 if self.rows.labels is not None or self.offset is None else self.offset
        for i, (a, first, last) in enumerate(self.rows.blocks):
            for b, first_column, last_column in self.columns.blocks[i if self.symmetric else 0 :]:
                left_out = {"others": (None, False), "negatives": (None, False)}  # no class in common
                if first + shift <= last_column and first_column <= last + shift:
                    left_out = self._left_out(a, b)
                if relations & left_out.keys():
                    yield a, b, left_out

    def _left_out(self, a, b):
        itself, diagonal = None, self.symmetric and a == b
        if not self.symmetric and self.offset is not None:
            itself = self.rows.positions(a)[:, None] + self.offset == self.columns.positions(b)
        if self.rows.labels is None:
            return {"others": (itself, diagonal)}
        same = self.rows.labels[a, None] == self.columns.labels[b]
        other = ~same if itself is None else ~same | itself
        return {"others": (itself, diagonal), "positives": (other, diagonal), "negatives": (same, False)}


class _Reduce(torch.autograd.Function):
    """The log-sum-exps (terms, N) and the mean over positives (N,), whose value comes from above.

    A log-sum-exp is kept as largest + log(sums), which loses no digits where exponents are large. Bounded exponents need no
    shift, so largest is 0."""

    @staticmethod
    def forward(ctx, anchors, contrasts, tiles, terms, temperature, mean, positives, degrees):
        x = tiles.rows.sort(anchors)
        y = x if tiles.symmetric else tiles.columns.sort(contrasts)
        bounded = [abs(factor) <= BOUNDED * temperature for _, factor in terms]
        sums, largest = x.new_zeros(2, len(terms), len(x))
        largest[[not fits for fits in bounded]] = LOWEST
        scratch = _Scratch(x)
        for a, b, left_out in tiles.visit({over for over, _ in terms}):
            s = scratch.products("s", x[a], y[b], 1 / temperature)
            sides = [(a, 1)] if not tiles.symmetric or a == b else [(a, 1), (b, 0)]
            for k, (over, factor) in enumerate(terms):
                if over not in left_out:
                    continue
                e = scratch.exponentials(s, factor, bounded[k], *left_out[over])
                for block, dim in sides:
                    if bounded[k]:
                        sums[k, block] += e.sum(dim)
                    else:
                        old = largest[k, block]
                        new = torch.maximum(old, e.amax(dim))
                        shifted = scratch.shifted(e, new.unsqueeze(dim))
                        sums[k, block] = sums[k, block] * (old - new).exp() + shifted.sum(dim)
                        largest[k, block] = new
        sums.masked_fill_(largest == LOWEST, 0)  # the sum over no pair
        ctx.save_for_backward(anchors, contrasts, sums, largest, positives)
        ctx.tiles, ctx.terms, ctx.temperature, ctx.bounded, ctx.degrees = tiles, terms, temperature, bounded, degrees
        return tiles.rows.unsort((largest + sums.log()).clamp_(min=LOWEST), dim=1), mean

    @staticmethod
    def backward(ctx, grad, grad_mean):
        if torch.is_grad_enabled():  # as it is under create_graph=True
            raise RuntimeError('Second derivatives need engine="readable"; the tiled engine has the first alone.')
        anchors, contrasts, sums, largest, positives = ctx.saved_tensors
        tiles, symmetric = ctx.tiles, ctx.tiles.symmetric
        x = tiles.rows.sort(anchors)
        y = x if symmetric else tiles.columns.sort(contrasts)
        grad_x = torch.zeros_like(x)
        grad_y = grad_x if symmetric else torch.zeros_like(y)
        # g_i W_ij = share_i exp(factor s_ij - largest_i); the gradient of a sum over no pair, NaN included, stops here
        share = (tiles.rows.sort(grad, dim=1) / sums).masked_fill_(sums == 0, 0)
        similar = None if positives is None else "positives" if ctx.degrees is None else "others"
        if similar:
            share_mean = tiles.rows.sort(grad_mean / positives)
        scratch = _Scratch(x)
        for a, b, left_out in tiles.visit({similar, *(over for over, _ in ctx.terms)}):
            s = scratch.products("s", x[a], y[b], 1 / ctx.temperature)
            weights = scratch("weights", *s.shape).zero_()  # dloss/ds_ij + dloss/ds_ji
            for k, (over, factor) in enumerate(ctx.terms):
                if over not in left_out:
                    continue
                e = scratch.exponentials(s, factor, ctx.bounded[k], *left_out[over])
                for shift, g in [(largest[k, a, None], share[k, a, None]), (largest[k, b], share[k, b])][: 1 + symmetric]:
                    weights.addcmul_(e if ctx.bounded[k] else scratch.shifted(e, shift), g, value=factor)
            if similar in left_out:
                c = scratch.degrees(ctx.degrees, a, b, *left_out[similar])
                weights.addcmul_(c, share_mean[a, None])
                if symmetric:
                    weights.addcmul_(c, share_mean[b])
            grad_x[a].addmm_(weights, y[b], alpha=1 / ctx.temperature)
            if not (symmetric and a == b):  # a tile on the diagonal is its own mirror image
                grad_y[b].addmm_(weights.T, x[a], alpha=1 / ctx.temperature)
        grad_anchors = tiles.rows.unsort(grad_x)  # if symmetric, with what embeddings get as contrasts
        return grad_anchors, None if symmetric else tiles.columns.unsort(grad_y), *[None] * 6


class _Scratch:
    """Memory for tiles, by name, used again: getting it anew for every tile would double the time."""

    def __init__(self, like):
        self.like, self.memory = like, {}

    def __call__(self, name, rows, columns):
        memory = self.memory.get(name)
        if memory is None or len(memory) < rows * columns:
            memory = self.memory[name] = self.like.new_empty(rows * columns)
        return memory[: rows * columns].view(rows, columns)

    def products(self, name, x, y, scale=1.0):
        s = self(name, len(x), len(y))
        return torch.addmm(s, x, y.T, beta=0, alpha=scale, out=s)

    def exponentials(self, s, factor, bounded, mask, diagonal):
        """exp(factor s), or factor s where that is not bounded."""
        e = self("exponentials", *s.shape)
        if not bounded:
            return _leave_out(torch.mul(s, factor, out=e), mask, diagonal, LOWEST)
        return _leave_out(torch.exp(s, out=e) if factor == 1 else torch.mul(s, factor, out=e).exp_(), mask, diagonal, 0)

    def shifted(self, e, largest):
        """exp(e - largest)."""
        return torch.sub(e, largest, out=self("shifted", *e.shape)).clamp_(min=NOTHING).exp_()

    def degrees(self, labels, a, b, mask, diagonal):
        """c_ij: 1 for each positive, or the cosine of distributions."""
        if labels is None:
            c = self("degrees", a.stop - a.start, b.stop - b.start).fill_(1)
        else:
            c = self.products("degrees", labels[0][a], labels[1][b])
        return _leave_out(c, mask, diagonal, 0)


def _leave_out(e, mask, diagonal, value):
    if mask is not None:
        e.masked_fill_(mask, value)
    return e.fill_diagonal_(value) if diagonal else e
