"""Files: written whole or not at all, known by content; the one image loader."""
