"""The process that owns an accelerator: it gets an assignment, trains, and tells of it in a journal."""
