"""Fine-tuning methods, one a file: typed settings, how to load the base for it, how to apply it to a model."""
