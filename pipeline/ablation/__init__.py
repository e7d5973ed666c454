"""Ablation of an experiment: the parts of the method, switched on one by one, over several seeds."""
