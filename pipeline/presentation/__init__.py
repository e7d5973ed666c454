"""Figures, sizes and charts as people read them."""
