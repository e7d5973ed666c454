"""Masks: overlap, matching, windows, outlines, run lengths."""
