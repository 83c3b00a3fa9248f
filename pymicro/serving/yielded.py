"""What the lifespan of a service yielded: `service.state`, and `context.state` in each of its calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymicro.base.errors import PymicroError

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # type checkers bring it themselves

    StateT = TypeVar("StateT", default=Any)
else:
    from typing import TypeVar

    # Defaults exist from Python 3.13 on. Only type checkers need this one.
    StateT = TypeVar("StateT")

__all__ = ["StateT", "Yielded"]


class Yielded:
    """The state of one life of a service: there while its lifespan is open.

    Args:
        service: The service's name, for messages.
        expected: Whether the service has a lifespan.
    """

    __slots__ = ("_service", "_there", "_value", "_why_not")

    def __init__(self, service: str, *, expected: bool) -> None:
        self._service = service
        self._value: Any = None
        self._there = False
        self._why_not = (
            f"the state of {service} is what its lifespan yields, and that has not opened yet"
            if expected
            else f"{service} has no state: it is what a lifespan yields, as in Service(…, lifespan=opened)"
        )

    def open(self, value: Any) -> None:
        """The lifespan has yielded this."""
        self._value, self._there = value, True

    def close(self) -> None:
        """The lifespan closes; nothing holds its value any longer."""
        self._value, self._there = None, False
        self._why_not = f"the state of {self._service} is gone: its lifespan has closed"

    def get(self) -> Any:
        """What the lifespan yielded.

        Raises:
            PymicroError: There is no lifespan, or it is not open.
        """
        if not self._there:
            raise PymicroError(self._why_not)
        return self._value
