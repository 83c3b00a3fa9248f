"""Which objects are meant, and the requests that ask for them."""

from __future__ import annotations

from dataclasses import dataclass

from pymicro.kubernetes.api.resource import Resource

__all__ = ["ObjectQuery"]


@dataclass(frozen=True, slots=True)
class ObjectQuery:
    """Objects of one resource.

    Attributes:
        resource: The collection they are in.
        namespace: Their namespace; None for all namespaces.
        labels: A label selector; empty for any.
        fields: A field selector; empty for any.
    """

    resource: Resource
    namespace: str | None
    labels: str = ""
    fields: str = ""

    def __str__(self) -> str:
        where = "all namespaces" if self.namespace is None else f"namespace {self.namespace}"
        selected = f" with {self.labels}" if self.labels else ""
        return f"{self.resource.plural} in {where}{selected}"

    @property
    def path(self) -> str:
        """The path of the request."""
        return self.resource.path(self.namespace)

    def page(self, size: int, proceed: str) -> dict[str, str]:
        """One page of a consistent list.

        The version is left unset: with `0` the server would ignore `limit` and send everything.
        """
        return {"limit": str(size), **({"continue": proceed} if proceed else {}), **self._selectors()}

    def watch(self, version: str, seconds: int) -> dict[str, str]:
        """A watch of everything after `version`."""
        return {**self._watched(seconds), "resourceVersion": version}

    def stream_list(self, seconds: int) -> dict[str, str]:
        """All objects as ADDED events, then a bookmark that ends them, then a watch (KEP-3157)."""
        return {
            **self._watched(seconds),
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
        }

    def _watched(self, seconds: int) -> dict[str, str]:
        asked = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        return {**asked, **self._selectors()}

    def _selectors(self) -> dict[str, str]:
        given = {"labelSelector": self.labels, "fieldSelector": self.fields}
        return {key: value for key, value in given.items() if value}
