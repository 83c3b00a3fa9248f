"""Images, which here are folders of the checkout on top of this machine's Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

# What a slim Debian image has, and the machine's Python needs.
_FOLDERS = ("/usr", "/dev")
# Not all of /etc: a pod has its own /etc/hosts and /etc/resolv.conf.
_ETC = ("alternatives", "group", "ld.so.cache", "localtime", "nsswitch.conf", "passwd", "ssl")

# Of the distroless "nonroot"; a pod may ask for another.
USER = 65532


class NoImage(Exception):
    """An image that was not given to the kubelet."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a container of it sees and gets.

    Attributes:
        binds: Pairs of a path on this machine and the container's.
        environment: Variables.
        user: User and group that its processes run as.
    """

    binds: tuple[tuple[str, str], ...]
    environment: dict[str, str]
    user: int = USER


class Images:
    """Images by name without tag; each is a folder shown as /app."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = dict(folders)

    def find(self, name: str) -> Image:
        """The image called `name`.

        Raises:
            NoImage: There is none.
        """
        folder = self._folders.get(name.partition(":")[0])
        if folder is None:
            raise NoImage(f"image {name}: the kubelet was given {', '.join(self._folders) or 'none'}")
        return Image(
            binds=(*_machine(), (str(folder), "/app")),
            environment={
                "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin",
                "HOME": "/",
                "PYTHONUNBUFFERED": "1",
                # Nothing that it could write would be kept.
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )


def _machine() -> list[tuple[str, str]]:
    """This machine's Python with its packages, the checkout they may point to, and what both need.

    A folder is bound at its own path, whose parents are the container's own: so a Python in root's home
    is found by any user (its files must be readable to all, as they usually are).
    """
    paths = [*_FOLDERS, *(f"/etc/{name}" for name in _ETC), sys.prefix, sys.base_prefix, str(ROOT)]
    wanted: list[str] = []
    for path in sorted({os.path.normpath(path) for path in paths if os.path.exists(path)}):
        if not any(path.startswith(f"{above}/") for above in wanted):
            wanted.append(path)
    return [(path, path) for path in wanted]
