"""Augmentation with refined pseudo-labels: instances of one image are pasted into another, with their masks."""
