"""The losses as a textbook writes them, with N x N matrices: what supcl.losses is measured against, not what to use.

Same names and arguments as in supcl.losses, a few lines each. For ordinary batches only: every anchor needs a positive and a
negative, the temperature must not be so small that exp overflows, and nothing is checked.
"""

import math

import torch
import torch.nn.functional as F


def supcon_loss(embeddings, labels, *, temperature=0.1):
    """mean_i  -1/|P(i)| sum_p log( exp(s_ip) / sum_{a in A(i)} exp(s_ia) );  embeddings (N, D), labels (N,)."""
    s, others = _similarities(embeddings, temperature)
    positive = (labels[:, None] == labels) & others
    log_share = s - s.masked_fill(~others, -math.inf).logsumexp(1, keepdim=True)
    return -((log_share * positive).sum(1) / positive.sum(1)).mean()


def schane_loss(embeddings, labels, *, temperature=0.5, hardness=1.0, positives="mean"):
    """mean_i  -log( m_i / (m_i + R_i) ), or for "sum" -log( m_i / (S_i + R_i) ), with S_i = sum_p exp(s_ip), m_i = S_i / |P(i)|
    and R_i = sum_n w_in exp(s_in), w_in = exp(hardness s_in) over its mean;  embeddings (N, D), labels (N,)."""
    s, others = _similarities(embeddings, temperature)
    same = labels[:, None] == labels
    positive, negative = same & others, ~same
    weight = (hardness * s).exp() * negative
    weight = weight / weight.sum(1, keepdim=True) * negative.sum(1, keepdim=True)
    against = (weight * s.exp()).sum(1)
    total = (s.exp() * positive).sum(1)
    mean = total / positive.sum(1)
    return -(mean / ((mean if positives == "mean" else total) + against)).log().mean()


def clce_loss(logits, embeddings, labels, *, weight=0.9, temperature=0.5, hardness=1.0, positives="mean"):
    """(1 - weight) * cross_entropy(logits, labels) + weight * schane_loss(embeddings, labels);  logits (N, C)."""
    contrastive = schane_loss(embeddings, labels, temperature=temperature, hardness=hardness, positives=positives)
    return (1 - weight) * F.cross_entropy(logits, labels) + weight * contrastive


def genscl_loss(embeddings, label_distributions, *, temperature=0.1):
    """mean_i  - sum_j t_ij log( exp(s_ij) / sum_{a in A(i)} exp(s_ia) ), t_ij the cosine of i's and j's label distributions
    over its sum;  embeddings (N, D), label_distributions (N, C)."""
    s, others = _similarities(embeddings, temperature)
    q = F.normalize(label_distributions, dim=1)
    target = (q @ q.T) * others
    target = target / target.sum(1, keepdim=True)
    log_share = s - s.masked_fill(~others, -math.inf).logsumexp(1, keepdim=True)
    return -(target * log_share).sum(1).mean()


def _similarities(embeddings, temperature):
    """s_ij (N, N), and the mask (N, N) of pairs that are not an anchor with itself."""
    z = F.normalize(embeddings, dim=1)
    return z @ z.T / temperature, ~torch.eye(len(z), dtype=torch.bool, device=z.device)
