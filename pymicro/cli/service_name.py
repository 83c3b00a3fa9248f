"""The argument SERVICE of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pymicro.base.printable import excerpt, printable

__all__ = ["SERVICE_NAME"]

_LONGEST = 1000

if TYPE_CHECKING:
    _Text = click.ParamType[str]
else:  # older click has a generic one for type checkers only
    _Text = click.ParamType


class _ServiceName(_Text):
    """A name that a service can have: a script's variable that is not set is none."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = str(value)
        if not name.strip():
            self.fail("it is empty, and no service is called so", param, ctx)
        if len(name) > _LONGEST or printable(name) != name or "\n" in name or "\t" in name:
            self.fail(f"{excerpt(name)} is no name of a service", param, ctx)
        return name


SERVICE_NAME = _ServiceName()
