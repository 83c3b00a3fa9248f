"""Print the lowest versions that pyproject.toml allows, as constraints for pip.

Only what users install counts (dependencies and extras, grpcio-tools among
them); the tools of the group `dev` stay at their newest.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
BOUND = re.compile(r"(?P<name>[A-Za-z0-9._-]+)>=(?P<version>[0-9][A-Za-z0-9.]*)(\s*;.*)?")


def main() -> int:
    """Write one `name==version` a line; fail for a dependency without a lower bound."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    requirements = {*project["dependencies"]}
    for extra in project["optional-dependencies"].values():
        requirements.update(extra)
    for requirement in sorted(requirements):
        match = BOUND.fullmatch(requirement)
        if match is None:
            print(f"{requirement!r} in pyproject.toml is not of the form name>=version", file=sys.stderr)
            return 1
        print(f"{match['name']}=={match['version']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
