"""One call of the user: its state, its attempts, its interceptors and its end."""
