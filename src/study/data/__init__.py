"""Data sets by name, their files on disk, splits and draws, augmentation, and the sealed test set.

Nothing here knows of models or methods.
"""
