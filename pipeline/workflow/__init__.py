"""The experiment, the stage graph, fingerprints, the shared store of results, the workspace."""
