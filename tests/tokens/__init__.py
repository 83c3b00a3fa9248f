"""Calls that carry tokens and API keys."""
