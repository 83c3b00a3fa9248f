"""The selectors: each finds a service's node sets in its own way."""
