"""What only callers from go-micro 1.x need."""
