"""Services with plug-ins chosen for one environment: defaults in code, which an operator can override."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from pymicro.service import Service

__all__ = ["kubernetes_service"]

P = ParamSpec("P")
S = TypeVar("S")


def _takes_what(make: Callable[P, S]) -> Callable[[Callable[..., S]], Callable[P, S]]:
    """Decorator: gives the function the parameters of `make`, for type checkers and help texts."""

    def typed(function: Callable[..., S]) -> Callable[P, S]:
        function.__signature__ = inspect.signature(make)  # type: ignore[attr-defined]
        return function

    return typed


@_takes_what(Service)
def kubernetes_service(*args: Any, **keywords: Any) -> Service:
    """A `Service` that leaves balancing to the cluster, like `k8s.NewService` of micro/kubernetes in Go.

    It registers on its own Pod object (registry `kubernetes`), so that others find it there.
    Its own calls go to Kubernetes Services by name (selector `static`), so it needs no right
    to watch pods. It takes the arguments of `Service`; flags and environment override both.
    """
    return Service(*args, **{"registry": "kubernetes", "selector": "static", **keywords})
