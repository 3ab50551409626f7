"""Encoder and heads, the one training loop, devices and processes, checkpoints, and the queue.

A method reaches this package only as an objective, a function of the outputs and the batch.
"""
