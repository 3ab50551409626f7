"""Supervised contrastive learning for image classification: what the notebooks share."""
