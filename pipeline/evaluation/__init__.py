"""Measures models and pseudo-labels, and writes `evaluation.json`."""
