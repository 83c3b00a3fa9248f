"""For tests: your services in the test's own process, and contract suites for plug-ins.

`running` (and the fixture `pymicro_services`) runs services and a client over real
sockets, and lets their nodes fail, slow down or vanish.

`RegistryContract`, `SelectorContract` and `BalancerContract` test what every plug-in
must do: base classes for pytest (with pytest-asyncio), to be subclassed next to the
plug-in. Only they import pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymicro.testing.balancer import BalancerContract
    from pymicro.testing.registry import RegistryContract
    from pymicro.testing.selector import SelectorContract, node_source
    from pymicro.testing.services import Running, RunningNode, running

__all__ = [
    "BalancerContract",
    "RegistryContract",
    "Running",
    "RunningNode",
    "SelectorContract",
    "node_source",
    "running",
]

_HOMES = {
    "BalancerContract": "balancer",
    "RegistryContract": "registry",
    "SelectorContract": "selector",
    "node_source": "selector",
}


def __getattr__(name: str) -> Any:
    # pytest loads the plug-in next to this wherever pymicro is installed, which must cost nothing.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_HOMES.get(name, 'services')}")
    value = globals()[name] = getattr(home, name)
    return value
