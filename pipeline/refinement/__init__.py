"""Refinement of one batch of images: prompts, candidates, choice, clean-up, gate."""
