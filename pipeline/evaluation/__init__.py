"""How good models and pseudo-labels are: what `evaluate` measures, and the file it writes."""
