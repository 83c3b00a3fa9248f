"""Selectors: where a service's node sets come from."""
