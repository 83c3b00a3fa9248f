"""Every parser that reads a stranger's bytes: what it is given, and what must hold.

A row is one parser. Its `check` gives it an input and asserts what else must hold, such as that what
a writer wrote is read back; an exception other than those in `raises` is a finding.
"""

from __future__ import annotations

from tests.fuzz import calls, kubernetes, nodes, small, tokens
from tests.fuzz.parser import Parser

__all__ = ["PARSERS"]

PARSERS: tuple[Parser, ...] = (
    *nodes.PARSERS,
    *kubernetes.PARSERS,
    *small.PARSERS,
    *calls.PARSERS,
    *tokens.PARSERS,
)
