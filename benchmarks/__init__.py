"""One file a hot path, each beside its peer in the same run. `python -m benchmarks [NAME …]` prints and keeps them."""
