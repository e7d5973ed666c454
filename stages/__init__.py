"""The stages of an experiment and the `s4m` command: they read an experiment, call `pipeline`, record the result."""
