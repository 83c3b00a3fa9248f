"""Nodes as values: their addresses, their records, and the meaning of their metadata."""
