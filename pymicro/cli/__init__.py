"""The command line, one command a module."""

from __future__ import annotations

from pymicro.cli.app import main

__all__ = ["main"]
