"""Random input against everything that reads: the API, the life of a run, uploads, and each parser. `make fuzz` runs it long."""
