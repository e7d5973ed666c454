"""Where data comes from: the shapes generator, converters of public datasets, the small shipped SAM."""
