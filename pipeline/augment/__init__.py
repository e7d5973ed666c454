"""Augmentation with refined pseudo-labels: instances of one image pasted into another, masks and all."""
