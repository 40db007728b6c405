"""Data-set shapes, one a file: which columns it has, and how a record becomes a row."""
