"""The losses once more, from their printed formulas: Python floats, a loop per index, no shift and no shared code.

Same names and arguments as supcl.losses. exp() of 5 / 0.01 still fits a float64, so nothing here needs to be stabilised.
"""

import math


def supcon_loss(embeddings, labels, *, temperature, form):
    s, y = _similarities(embeddings, temperature), labels.tolist()
    terms = []
    for i in range(len(y)):
        positives = _positives(i, y)
        if not positives:
            continue
        denominator = sum(math.exp(s[i][a]) for a in range(len(y)) if a != i)
        shares = [math.exp(s[i][p]) / denominator for p in positives]
        if form == "out":
            terms.append(-sum(math.log(share) for share in shares) / len(positives))
        else:
            terms.append(-math.log(sum(shares) / len(positives)))
    return _mean(terms)


def supcon_gradient(embeddings, labels, *, temperature, form):
    """d supcon_loss / d embeddings: Eq. 4 of the paper for every row as an anchor, plus the same row as others' contrast.

    As anchor:    dL_i/dz_i = 1/temperature { sum_p z_p (P_ip - X_ip) + sum_n z_n P_in }
    As contrast:  dL_i/dz_k = 1/temperature z_i (P_ik - X_ik), with X_in = 0
    Normalising:  dL/dw_k = 1/|w_k| (g_k - (g_k . z_k) z_k)
    """
    w, y = embeddings.tolist(), labels.tolist()
    z, s = _unit_rows(embeddings), _similarities(embeddings, temperature)
    n, dim = len(z), len(z[0])
    anchors = [i for i in range(n) if _positives(i, y)]
    g = [[0.0] * dim for _ in range(n)]
    for i in anchors:
        positives = _positives(i, y)
        denominator = sum(math.exp(s[i][a]) for a in range(n) if a != i)
        for a in range(n):
            if a == i:
                continue
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


def schane_loss(embeddings, labels, *, temperature, hardness, positives):
    s, y = _similarities(embeddings, temperature), labels.tolist()
    terms = []
    for i in range(len(y)):
        same = _positives(i, y)
        different = [n for n in range(len(y)) if y[n] != y[i]]
        if not same:
            continue
        rest = 0.0
        for n in different:
            mean_weight = sum(math.exp(hardness * s[i][m]) for m in different) / len(different)
            rest += math.exp(hardness * s[i][n]) / mean_weight * math.exp(s[i][n])
        total = sum(math.exp(s[i][p]) for p in same)
        if positives == "mean":
            mean = total / len(same)
            terms.append(-math.log(mean / (mean + rest)))
        else:
            terms.append(-math.log(1 / len(same) * total / (total + rest)))
    return _mean(terms)


def clce_loss(logits, embeddings, labels, *, weight, temperature, hardness, positives):
    rows, y = logits.tolist(), labels.tolist()
    cross_entropy = _mean([-math.log(math.exp(row[c]) / sum(map(math.exp, row))) for row, c in zip(rows, y, strict=True)])
    contrastive = schane_loss(embeddings, labels, temperature=temperature, hardness=hardness, positives=positives)
    return (1 - weight) * cross_entropy + weight * contrastive


def genscl_loss(embeddings, label_distributions, *, temperature):
    s, q = _similarities(embeddings, temperature), label_distributions.tolist()
    terms = []
    for i in range(len(q)):
        similarity = [0.0 if j == i else _cosine(q[i], q[j]) for j in range(len(q))]
        if sum(similarity) == 0:
            continue
        denominator = sum(math.exp(s[i][a]) for a in range(len(q)) if a != i)
        cross_entropy = 0.0
        for j in range(len(q)):
            if j != i:
                cross_entropy -= similarity[j] / sum(similarity) * math.log(math.exp(s[i][j]) / denominator)
        terms.append(cross_entropy)
    return _mean(terms)


def _similarities(embeddings, temperature):
    z = _unit_rows(embeddings)
    return [[_dot(a, b) / temperature for b in z] for a in z]


def _unit_rows(embeddings):
    """Rows of length one; a row of zeros has no direction and stays zero."""
    return [[x / (math.hypot(*row) or 1.0) for x in row] for row in embeddings.tolist()]


def _cosine(a, b):
    lengths = math.hypot(*a) * math.hypot(*b)
    return _dot(a, b) / lengths if lengths else 0.0


def _dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def _positives(i, y):
    return [p for p in range(len(y)) if p != i and y[p] == y[i]]


def _mean(terms):
    return sum(terms) / len(terms) if terms else 0.0
