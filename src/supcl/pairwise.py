"""Sums over pairs of embeddings: exact, differentiable, and never an N x N matrix.

pair_logsumexp  log sum_j exp(factor s_ij), s_ij = a_i . c_j / temperature, in tiles small enough for a processor's cache.
                Forward adds up the exponentials of each tile; backward computes the tile again. Where contrasts are the
                anchors themselves, s is symmetric: only tiles on and above the diagonal are computed, and each serves its
                rows and its columns. With L_i the log-sum-exp and W_ij = exp(factor s_ij - L_i):

                dL_i/da_i = factor / temperature sum_j W_ij c_j,    dL_i/dc_j = factor / temperature W_ij a_i

                With similarities of labels it adds up those times s_ij as well: in a small batch, quicker than the sums below.
positive_sum    sum_p a_i . c_p over positives, which is linear: a product with the sum of a class, no pair is visited.
similarity_sums the same where labels are distributions, and positives so by degrees.
"""

import torch

FITS = 40  # exp(-40), exp(40) and sums of millions of them fit float32: exponents up to this need no shift


def pair_logsumexp(
    anchors,
    terms,
    *,
    temperature=1.0,
    labels=None,
    contrasts=None,
    contrast_labels=None,
    offset=None,
    tile=None,
    label_similarity=None,
):
    """log sum_j exp(factor s_ij) for each term and each anchor: (terms, N). A sum over no pair is -inf, with zero gradient.

    anchors    (N, D) float32 or float64, rows at most one long. s_ij = a_i . c_j / temperature.
    terms      pairs (over, factor). over: "others" (every contrast but the anchor itself), "positives" (those of the others
               with the anchor's label) or "negatives" (those with another label); factor: any number.
    labels     (N,) int64, for positives and negatives.
    contrasts  (M, D), with their contrast_labels (M,). None: the anchors.
    offset     anchor i is row offset + i of contrasts, with the same label. None: anchors are not among contrasts.
    tile       rows and columns of a tile, chosen by itself; it changes nothing but rounding, time and memory.
    label_similarity  (N, M) c_ij, a constant, symmetric where contrasts are the anchors; for terms over "others" alone. With it
               two are returned, the log-sum-exps and sum_j c_ij s_ij (N,).
    """
    tile = tile or default_tile(anchors.device)
    if all(over == "others" for over, _ in terms):
        labels = contrast_labels = None
    rows = columns = _Side(anchors, labels, tile)
    if contrasts is None:
        contrasts, offset = anchors, 0
    else:
        columns = _Side(contrasts, contrast_labels, tile)
    tiles = _Tiles(rows, columns, offset)
    lse, attraction = _PairLogSumExp.apply(anchors, contrasts, tiles, terms, temperature, label_similarity)
    return lse if attraction is None else (lse, attraction)


def positive_sum(anchors, classes, contrasts, contrast_classes, count, own=None):
    """sum_p a_i . c_p over the contrasts p of anchor i's class, without row i of contrasts[own]: (N,).

    classes (N,) and contrast_classes (M,) are int64 below count; own is a slice of N contrasts, the anchors themselves.
    """
    return _PositiveSum.apply(anchors, classes, contrasts, contrast_classes, count, own)


def similarity_sums(anchors, q, contrasts, p, own=None):
    """sum_j c_ij and sum_j c_ij a_i . c_j over contrasts j, without row i of contrasts[own], c_ij = q_i . p_j: (N,) each.

    q (N, C) and p (M, C) are of anchors (N, D) and contrasts (M, D); own is a slice of N contrasts, the anchors themselves. Of
    the gradient of an own contrast the part along it may be off, which vanishes where rows are normalised.
    """
    total, c_ii = (q * p.sum(0)).sum(1), None  # sum_j c_ij = q_i . sum_j p_j
    if own is not None:
        c_ii = (q * p[own]).sum(1)
        total = total - c_ii
    return total, _SimilaritySum.apply(anchors, q, contrasts, p, c_ii, own)


def default_tile(device):
    """On a CPU a few tiles of float32 fit the cache; elsewhere a tile should be worth the launch of its kernels."""
    return 512 if device.type == "cpu" else 4096


class _Side:
    """The rows of s or its columns, cut into blocks: (slice, first, last). With labels they are sorted by them, as the blocks
    then have few classes in common, and first and last are a block's smallest and largest label; without, positions."""

    def __init__(self, x, labels, tile):
        self.device, self.labels, self.order = x.device, labels, None
        class_ends = [x.shape[0]]
        if labels is not None and x.shape[0] > tile:
            self.labels, self.order = labels.sort()
            class_ends = self.labels.unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
        slices = _slices(class_ends, tile)
        if labels is None:
            self.blocks = [(block, block.start, block.stop - 1) for block in slices]
        else:
            self.blocks = [(block, *(int(end) for end in self.labels[block].aminmax())) for block in slices]

    def sorted(self, x, dim=0):
        return x if self.order is None else x.index_select(dim, self.order)

    def unsorted(self, x, dim=0):
        return x if self.order is None else torch.empty_like(x).index_copy_(dim, self.order, x)

    def positions(self, block):
        return torch.arange(block.start, block.stop, device=self.device) if self.order is None else self.order[block]


def _slices(class_ends, tile):
    """Cut sorted rows into blocks of at most `tile`. A block ends where a class ends, if it is more than half full by then: tiles
    that have classes in common cost more."""
    slices, start, previous = [], 0, 0
    for end in class_ends:
        while end > start + tile:
            stop = previous if previous > start + tile // 2 else start + tile
            slices.append(slice(start, stop))
            start = stop
        previous = end
    return [*slices, slice(start, previous)] if previous else []


class _Tiles:
    def __init__(self, rows, columns, offset):
        self.rows, self.columns, self.offset, self.symmetric = rows, columns, offset, rows is columns
        self.single = len(rows.blocks) == len(columns.blocks) == 1

    def visit(self, terms):
        """For each tile: slices a of rows and b of columns, and the terms that have pairs in it, as (k, factor, mask of pairs
        left out or None, whether the diagonal is left out)."""
        shift = 0 if self.rows.labels is not None or self.offset is None else self.offset
        for i, (a, first, last) in enumerate(self.rows.blocks):
            for b, first_column, last_column in self.columns.blocks[i if self.symmetric else 0 :]:
                left_out = {"others": (None, False), "negatives": (None, False)}  # no class in common
                if first + shift <= last_column and first_column <= last + shift:
                    left_out = self._left_out(a, b)
                here = [(k, factor, *left_out[over]) for k, (over, factor) in enumerate(terms) if over in left_out]
                if here:
                    yield a, b, here

    def _left_out(self, a, b):
        itself, diagonal = None, self.symmetric and a == b
        if not self.symmetric and self.offset is not None:
            itself = self.rows.positions(a)[:, None] + self.offset == self.columns.positions(b)
        if self.rows.labels is None:
            return {"others": (itself, diagonal)}
        same = self.rows.labels[a, None] == self.columns.labels[b]
        other = ~same if itself is None else ~same | itself
        return {"others": (itself, diagonal), "positives": (other, diagonal), "negatives": (same, False)}


class _PairLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchors, contrasts, tiles, terms, temperature, c):
        x = tiles.rows.sorted(anchors)
        y = x if tiles.symmetric else tiles.columns.sorted(contrasts)
        lse = x.new_full((len(terms), x.shape[0]), -torch.inf)
        attraction = None if c is None else x.new_zeros(x.shape[0])
        scratch = _Scratch(x, kept=tiles.single and all(_fits(factor, temperature) for _, factor in terms))
        for a, b, here in tiles.visit(terms):
            s = scratch.products(x[a], y[b], 1 / temperature)
            sides = [(a, 1), (b, 0)] if tiles.symmetric and a != b else [(a, 1)]
            if c is not None:
                attracted = c[a, b] * s
                for block, dim in sides:
                    attraction[block] += attracted.sum(dim)
            for k, factor, *left_out in here:
                fits = _fits(factor, temperature)
                e = scratch.exps(k, s, factor, *left_out) if fits else scratch.exponents(k, s, factor, *left_out)
                for block, dim in sides:
                    running = lse[k, block]
                    torch.logaddexp(running, e.sum(dim).log_() if fits else e.logsumexp(dim), out=running)
        lse = tiles.rows.unsorted(lse, dim=1)
        ctx.save_for_backward(anchors, contrasts, lse, c)
        ctx.tiles, ctx.terms, ctx.temperature = tiles, terms, temperature
        # A small batch is one tile. Its exponentials are kept, which is quicker than computing them again.
        ctx.kept = scratch if scratch.kept else None
        return lse, attraction

    @staticmethod
    def backward(ctx, grad, grad_attraction):
        _refuse_second_derivatives()
        anchors, contrasts, lse, c = ctx.saved_tensors
        tiles, symmetric = ctx.tiles, ctx.tiles.symmetric
        x = tiles.rows.sorted(anchors)
        y = x if symmetric else tiles.columns.sorted(contrasts)
        grad_x = torch.zeros_like(x)
        grad_y = grad_x if symmetric else torch.zeros_like(y)
        empty = lse == -torch.inf  # whatever gradient arrives for these, NaN included, stops here
        g, lse = (tiles.rows.sorted(t.masked_fill(empty, 0), dim=1) for t in (grad, lse))
        f = g * (-lse).exp()  # where factors fit, g_i W_ij + g_j W_ji = (f_i + f_j) exp(factor s_ij)
        scratch = ctx.kept or _Scratch(x)
        for a, b, here in tiles.visit(ctx.terms):
            shape = (a.stop - a.start, b.stop - b.start)
            s = None if ctx.kept else scratch.products(x[a], y[b], 1 / ctx.temperature)
            # dloss/ds: sum over terms of factor (g_i W_ij + g_j W_ji), and the same with c; what is kept does not include s
            weights = scratch("products" if ctx.kept else "weights", *shape).zero_()
            for k, factor, *left_out in here:
                if _fits(factor, ctx.temperature):
                    e = scratch(k, *shape) if ctx.kept else scratch.exps(k, s, factor, *left_out)
                    weights.addcmul_(e, f[k, a, None], value=factor)
                    if symmetric:
                        weights.addcmul_(e, f[k, b], value=factor)
                else:
                    e = scratch.exponents(k, s, factor, *left_out)
                    weights.addcmul_(torch.sub(e, lse[k, a, None], out=scratch("w", *shape)).exp_(), g[k, a, None], value=factor)
                    if symmetric:
                        weights.addcmul_(e.sub_(lse[k, b]).exp_(), g[k, b], value=factor)
            if c is not None:
                weights.addcmul_(c[a, b], grad_attraction[a, None])
                if symmetric:
                    weights.addcmul_(c[a, b], grad_attraction[b])
            grad_x[a].addmm_(weights, y[b], alpha=1 / ctx.temperature)
            if not (symmetric and a == b):  # a tile on the diagonal is its own mirror image
                grad_y[b].addmm_(weights.T, x[a], alpha=1 / ctx.temperature)
        grad_anchors = tiles.rows.unsorted(grad_x)  # if symmetric, with what embeddings get as contrasts
        return grad_anchors, None if symmetric else tiles.columns.unsorted(grad_y), None, None, None, None


def _fits(factor, temperature):
    return abs(factor) <= FITS * temperature


class _Scratch:
    """Memory for tiles, by name, used again: getting it anew for every tile would double the time. All terms share theirs, which
    so stays in the cache, unless exponentials are kept."""

    def __init__(self, like, kept=False):
        self.like, self.kept, self.memory = like, kept, {}

    def __call__(self, name, *shape):
        found, size = self.memory.get(name), shape[0] * shape[1]
        if found is None or found.numel() < size:
            found = self.memory[name] = self.like.new_empty(shape)
        return found if found.shape == shape else found.view(-1)[:size].view(shape)

    def products(self, x, y, scale):
        s = self("products", x.shape[0], y.shape[0])
        return torch.addmm(s, x, y.T, beta=0, alpha=scale, out=s)  # out= keeps x's precision, which autocast would lower

    def of_term(self, k, *shape):
        return self(k if self.kept else "exps", *shape)

    def exps(self, k, s, factor, mask, diagonal):
        e = self.of_term(k, *s.shape)
        e = torch.exp(s, out=e) if factor == 1 else torch.mul(s, factor, out=e).exp_()
        return _leave_out(e, mask, diagonal, 0)

    def exponents(self, k, s, factor, mask, diagonal):
        return _leave_out(torch.mul(s, factor, out=self.of_term(k, *s.shape)), mask, diagonal, -torch.inf)


def _leave_out(e, mask, diagonal, value):
    if mask is not None:
        e.masked_fill_(mask, value)
    return e.fill_diagonal_(value) if diagonal else e


class _PositiveSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchors, classes, contrasts, contrast_classes, count, own):
        positives = _class_sums(contrasts, contrast_classes, count).index_select(0, classes)
        if own is not None:
            positives.sub_(contrasts[own])
        ctx.save_for_backward(anchors, positives, classes, contrast_classes)
        ctx.count, ctx.own = count, own
        return (anchors * positives).sum(1)

    @staticmethod
    def backward(ctx, grad):
        _refuse_second_derivatives()
        anchors, positives, classes, contrast_classes = ctx.saved_tensors
        pull = grad[:, None] * anchors
        grad_contrasts = _class_sums(pull, classes, ctx.count).index_select(0, contrast_classes)
        if ctx.own is not None:
            grad_contrasts[ctx.own].sub_(pull)
        return grad[:, None] * positives, None, grad_contrasts, None, None, None


class _SimilaritySum(torch.autograd.Function):
    """sum_j c_ij a_i . x_j = a_i . q_i^T (P^T X) for contrasts X, without c_ii a_i . x_i."""

    @staticmethod
    def forward(ctx, anchors, q, contrasts, p, c_ii, own):
        by_class = product(p.T, contrasts)
        pull = product(q, by_class)
        if own is not None:
            pull.addcmul_(c_ii[:, None], contrasts[own], value=-1)
        ctx.save_for_backward(anchors, q, contrasts, p, by_class, pull)
        ctx.own = own
        return (anchors * pull).sum(1)

    @staticmethod
    def backward(ctx, grad):
        _refuse_second_derivatives()
        anchors, q, contrasts, p, by_class, pull = ctx.saved_tensors
        grad, grad_q, grad_p, grad_c = grad[:, None], None, None, None
        push = grad * anchors
        push_by_class = product(q.T, push)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[3]:
            grad_q, grad_p = product(push, by_class.T), product(contrasts, push_by_class.T)
            grad_c = None if ctx.own is None else -(push * contrasts[ctx.own]).sum(1)
        return grad * pull, grad_q, product(p, push_by_class), grad_p, grad_c, None


def product(x, y):
    """x @ y without gradient, in their own precision under autocast as well."""
    return torch.mm(x, y, out=x.new_empty(x.shape[0], y.shape[1]))  # out= keeps x's precision, which autocast would lower


def _class_sums(x, classes, count):
    """Sums of the rows of x by class: (count, D). Where a class may have many rows, in float64."""
    exact = torch.float64 if x.shape[0] > 512 else x.dtype
    return x.new_zeros((count, x.shape[1]), dtype=exact).index_add_(0, classes, x.to(exact)).to(x.dtype)


def _refuse_second_derivatives():
    if torch.is_grad_enabled():  # as it is under create_graph=True
        raise RuntimeError("Second derivatives of sums over pairs are not supported; expected create_graph=False.")
