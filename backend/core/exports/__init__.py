"""What a run gives out, one kind of artifact a file."""
