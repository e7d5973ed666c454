"""Image sets: generators and converters, the labelled and unlabelled lists of an experiment."""
