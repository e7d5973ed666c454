"""SAM fitted to the labelled images before it is used, and used only where held-out labels gain by it."""
