"""The nodes of a service as connections."""
