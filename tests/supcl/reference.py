"""The losses once more, from their printed formulas: Python floats, a loop per index, no shift and no shared code.

Same names and arguments as supcl.losses. exp() of 5 / 0.01 still fits a float64, so nothing here needs to be stabilised.
"""

import math


def supcon_loss(embeddings, labels, *, temperature, form, contrasts=None, contrast_labels=None, offset=None):
    s = _similarities(embeddings, temperature, contrasts)
    terms = []
    for i, (others, positives, _) in enumerate(_kinds(labels, contrasts, contrast_labels, offset)):
        if not positives:
            continue
        denominator = sum(math.exp(s[i][a]) for a in others)
        shares = [math.exp(s[i][p]) / denominator for p in positives]
        if form == "out":
            terms.append(-sum(s[i][p] - math.log(denominator) for p in positives) / len(positives))
        else:
            terms.append(-math.log(sum(shares) / len(positives)))
    return _mean(terms)


def supcon_gradient(embeddings, labels, *, temperature, form):
    """d supcon_loss / d embeddings: Eq. 4 of the paper for every row as an anchor, plus the same row as others' contrast.

    As anchor:    dL_i/dz_i = 1/temperature { sum_p z_p (P_ip - X_ip) + sum_n z_n P_in }
    As contrast:  dL_i/dz_k = 1/temperature z_i (P_ik - X_ik), with X_in = 0
    Normalising:  dL/dw_k = 1/|w_k| (g_k - (g_k . z_k) z_k)
    """
    w = embeddings.tolist()
    z, s = _unit_rows(embeddings), _similarities(embeddings, temperature)
    n, dim = len(z), len(z[0])
    kinds = _kinds(labels, None, None, None)
    anchors = [(i, others, positives) for i, (others, positives, _) in enumerate(kinds) if positives]
    g = [[0.0] * dim for _ in range(n)]
    for i, others, positives in anchors:
        denominator = sum(math.exp(s[i][a]) for a in others)
        for a in others:
            pull = 0.0
            if a in positives and form == "out":
                pull = 1 / len(positives)
            elif a in positives:
                pull = math.exp(s[i][a]) / sum(math.exp(s[i][p]) for p in positives)
            force = (math.exp(s[i][a]) / denominator - pull) / temperature / len(anchors)
            for d in range(dim):
                g[i][d] += force * z[a][d]
                g[a][d] += force * z[i][d]
    return [[(g[k][d] - _dot(g[k], z[k]) * z[k][d]) / math.hypot(*w[k]) for d in range(dim)] for k in range(n)]


def schane_loss(embeddings, labels, *, temperature, hardness, positives, contrasts=None, contrast_labels=None, offset=None):
    s = _similarities(embeddings, temperature, contrasts)
    terms = []
    for i, (_, same, different) in enumerate(_kinds(labels, contrasts, contrast_labels, offset)):
        if not same:
            continue
        rest = 0.0
        for n in different:
            mean_weight = sum(math.exp(hardness * s[i][m]) for m in different) / len(different)
            rest += math.exp(hardness * s[i][n]) / mean_weight * math.exp(s[i][n])
        total = sum(math.exp(s[i][p]) for p in same)
        if positives == "mean":
            terms.append(math.log1p(rest / (total / len(same))))  # -log(m / (m + R)), of which nothing is left near 0
        else:
            terms.append(math.log(len(same)) + math.log1p(rest / total))
    return _mean(terms)


def clce_loss(logits, embeddings, labels, *, weight, **settings):
    rows, y = logits.tolist(), labels.tolist()
    cross_entropy = _mean([-math.log(math.exp(row[c]) / sum(map(math.exp, row))) for row, c in zip(rows, y, strict=True)])
    return (1 - weight) * cross_entropy + weight * schane_loss(embeddings, labels, **settings)


def genscl_loss(embeddings, label_distributions, *, temperature, contrasts=None, contrast_distributions=None, offset=None):
    s, q = _similarities(embeddings, temperature, contrasts), label_distributions.tolist()
    p = q if contrasts is None else contrast_distributions.tolist()
    terms = []
    for i in range(len(q)):
        others = _others(i, len(p), contrasts, offset)
        similarity = {j: _cosine(q[i], p[j]) for j in others}
        total = sum(similarity.values())
        if total == 0:
            continue
        denominator = sum(math.exp(s[i][a]) for a in others)
        terms.append(-sum(similarity[j] / total * (s[i][j] - math.log(denominator)) for j in others))
    return _mean(terms)


def tcl_loss(embeddings, labels, *, temperature, k1, k2, contrasts=None, contrast_labels=None, offset=None):
    s = _similarities(embeddings, temperature, contrasts)
    terms = []
    for i, (_, positives, negatives) in enumerate(_kinds(labels, contrasts, contrast_labels, offset)):
        if not positives:
            continue
        d = sum(math.exp(s[i][p]) + k1 * math.exp(-s[i][p] * temperature) for p in positives)
        d += k2 * sum(math.exp(s[i][n]) for n in negatives)
        terms.append(sum(math.log(d) - s[i][p] for p in positives) / len(positives))
    return _mean(terms)


def _others(i, m, contrasts, offset):
    itself = i if contrasts is None else None if offset is None else offset + i
    return [j for j in range(m) if j != itself]


def _kinds(labels, contrasts, contrast_labels, offset):
    """For each anchor the contrasts other than itself, of these the positives and the negatives."""
    y = labels.tolist()
    c = y if contrasts is None else contrast_labels.tolist()
    for i, label in enumerate(y):
        others = _others(i, len(c), contrasts, offset)
        yield others, [j for j in others if c[j] == label], [j for j in others if c[j] != label]


def _similarities(embeddings, temperature, contrasts=None):
    z = _unit_rows(embeddings)
    others = z if contrasts is None else _unit_rows(contrasts)
    return [[_dot(a, b) / temperature for b in others] for a in z]


def _unit_rows(embeddings):
    """Rows of length one; a row of zeros has no direction and stays zero."""
    return [[x / (math.hypot(*row) or 1.0) for x in row] for row in embeddings.tolist()]


def _cosine(a, b):
    lengths = math.hypot(*a) * math.hypot(*b)
    return _dot(a, b) / lengths if lengths else 0.0


def _dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def _mean(terms):
    return sum(terms) / len(terms) if terms else 0.0
