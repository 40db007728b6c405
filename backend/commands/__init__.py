"""What a person types: commands that talk to a studio through its API."""
