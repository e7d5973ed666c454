"""SAM's embeddings of images, kept: refining again with other prompts or another teacher needs no encoder."""
