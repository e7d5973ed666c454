"""Structural distillation: what SAM's decoder says of labelled images, for a detector to learn from."""
