"""Ablation of an experiment: the method's parts switched on one by one, over several seeds."""
