"""Which transport each end has in a run: pytest's options `--client-transport` and `--server-transport`.

A process has one setting for both of its ends. Programs that the tests start get the server's by their
environment, as do servers in the tests' own process; clients there are equipped with another one, if it
differs.
"""

from __future__ import annotations

from typing import Any

import pytest

from pymicro.calling.connections.core import ClientCore

__all__ = ["ENDS", "Ends"]


class Ends:
    """The transports of a run; conftest.py sets them."""

    client = "grpc"
    server = "grpc"

    def set_apart(self, patch: pytest.MonkeyPatch) -> None:
        """Equip the clients of this process with their own transport."""
        if self.client == self.server:
            return
        equip, chosen = ClientCore.equip, self.client

        def equipped(core: ClientCore, config: Any, *arguments: Any, **named: Any) -> None:
            equip(core, config.replace("the tests", transport=chosen), *arguments, **named)

        patch.setattr(ClientCore, "equip", equipped)


ENDS = Ends()
