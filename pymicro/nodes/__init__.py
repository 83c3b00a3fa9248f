"""Nodes as values: their addresses, their records, what their metadata says."""
