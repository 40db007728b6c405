"""Training stages, one a file: what is learned from which kind of row."""
