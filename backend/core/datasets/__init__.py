"""Data sets: read a file of any known shape, normalise each row to one form, check, version."""
