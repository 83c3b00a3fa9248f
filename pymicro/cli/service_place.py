"""The argument of `pymicro run`: where the Service is, not yet imported."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from pymicro.base.printable import excerpt, shortened
from pymicro.base.suggest import did_you_mean
from pymicro.cli.report import InputError

__all__ = ["ServicePlace"]


@dataclass(frozen=True, slots=True)
class ServicePlace:
    """`path.py`, `path.py:name`, `package.module` or `package.module:name`, split up.

    Attributes:
        place: The file or module, as the user wrote it.
        name: The name of the Service in it; empty if there is only one.
        is_file: Whether `place` is a path.
        base: The folder from which it is looked for; the working folder if empty.
    """

    place: str
    name: str
    is_file: bool
    base: Path = Path()

    @classmethod
    def read(cls, text: str, base: Path = Path()) -> ServicePlace:
        """Split `text` up; whether the place exists is not known yet."""
        place, _, name = text.partition(":")
        return cls(place, name, place.endswith(".py") or "/" in place or os.sep in place, base)

    def path(self) -> Path:
        """The file.

        Raises:
            InputError: It does not exist.
        """
        path = self.base / self.place
        if os.path.isdir(path):  # a name that is too long is none
            example = Path(self.place) / "server.py"
            raise InputError(f"{self.place} is a folder: name the file in it, such as {example}")
        if not os.path.isfile(path):
            near = did_you_mean(path.name, [file.name for file in path.parent.glob("*.py")])
            raise InputError(f"there is no file {shortened(self.place)}{near}")
        return path

    def parts(self) -> list[str]:
        """The parts of the module's name.

        Raises:
            InputError: It is no module name.
        """
        parts = self.place.split(".")
        if not all(part.isidentifier() for part in parts):
            raise InputError(
                f"{excerpt(self.place)} is neither a file (path.py) nor a module (package.module)"
            )
        return parts

    def folder(self) -> Path:
        """The folder of its code: the file's folder, or that of the outermost package.

        Raises:
            InputError: The file or module does not exist.
        """
        if self.is_file:
            return self.path().resolve().parent
        top = self.parts()[0]
        # Search as an import would, but import nothing.
        path = sys.path if sys.flags.safe_path else [str(self.base.absolute()), *sys.path[1:]]
        spec = importlib.machinery.PathFinder.find_spec(top, path)
        if spec is None:
            raise self.no_module(top)
        if spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations))).resolve()
        return Path(spec.origin or ".").resolve().parent

    def no_module(self, missing: str) -> InputError:
        """The error for a module, or a part of its name, that does not exist."""
        hint = f"; did you mean {self.place}.py?" if os.path.isfile(self.base / f"{self.place}.py") else ""
        return InputError(f"there is no module {missing}, looking from {self.base.absolute()}{hint}")
