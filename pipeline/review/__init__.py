"""Writes labels for people to correct, and reads corrected labels as labelled data."""
