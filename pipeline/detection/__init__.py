"""Training and predicting with MMDetection's detectors, and the parts of ours that they are built with."""
