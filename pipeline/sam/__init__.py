"""SAMs: their weights, and two engines that encode images and decode prompts in batches."""
