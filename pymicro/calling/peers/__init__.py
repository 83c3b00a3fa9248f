"""Clients of the services that every server has: health and reflection."""
