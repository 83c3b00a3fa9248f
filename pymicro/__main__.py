"""`python -m pymicro`: the same as the console script `pymicro`."""

from __future__ import annotations

from pymicro.cli import main

if __name__ == "__main__":
    main()
