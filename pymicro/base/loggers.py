"""pymicro's loggers, which outlive a program's own set-up of logging."""

from __future__ import annotations

import logging
import sys
from typing import Any

__all__ = ["logger"]


class _Lasting(logging.Logger):
    """A logger that `logging.config` does not switch off.

    `dictConfig` and `fileConfig` disable every logger that is there already and that they are not
    told of (`disable_existing_loggers`, which is on unless one says otherwise). pymicro's are there
    from the import on, so without this a service would run without a word: no line of its start, no
    traceback of a handler. Level and handlers are the program's to set, as for any logger; to
    silence one, give it a level.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "disabled" and value and sys._getframe(1).f_globals.get("__name__") == "logging.config":
            return
        super().__setattr__(name, value)


def logger(name: str) -> logging.Logger:
    """The logger of this name, which begins with `pymicro`."""
    found = logging.getLogger(name)
    if type(found) is logging.Logger:  # a program may have a class of its own
        found.__class__ = _Lasting
    return found
