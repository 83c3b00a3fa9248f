"""The command line, one command a module."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        argv: Arguments without the program's name; `sys.argv[1:]` if None.
    """
    try:
        from pymicro.cli.app import main
    except KeyboardInterrupt:  # Ctrl-C before anything has begun; the imports take a moment
        sys.exit(130)
    main(argv)
