"""Which node a call takes."""
