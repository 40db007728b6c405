"""The shared vocabulary of web and worker. Importing it loads neither a web framework nor torch."""
