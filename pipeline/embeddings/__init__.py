"""Kept embeddings of images: refining again with other prompts or another teacher does not run SAM's encoder."""
