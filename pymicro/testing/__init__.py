"""For tests: your services in the test's own process, and contract suites for plug-ins.

`running` (and the fixture `pymicro_services`) runs services and a client over real
sockets, and lets their nodes fail, slow down or vanish.

Each suite is a base class for pytest (with pytest-asyncio) to be subclassed next to
the plug-in: `pymicro.testing.registry.RegistryContract`,
`pymicro.testing.balancer.BalancerContract`,
`pymicro.testing.selector.SelectorContract`. Only these, and the plug-in for pytest,
import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymicro.testing.services import Running, RunningNode, running

__all__ = ["Running", "RunningNode", "running"]


def __getattr__(name: str) -> Any:
    # pytest loads the plug-in beside this wherever pymicro is installed: that must cost nothing.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pymicro.testing import services as home

    for each in __all__:
        globals()[each] = getattr(home, each)
    return globals()[name]
