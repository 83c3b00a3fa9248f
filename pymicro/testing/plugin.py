"""The pytest plug-in: a fixture that runs services for the length of a test.

pytest loads it wherever pymicro is installed, so it imports nothing of pymicro
until a test uses the fixture.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pymicro.service import Service
    from pymicro.testing.services import Running


def _fixture(function: Callable[[], AsyncIterator[Any]]) -> Any:
    """pytest-asyncio's decorator, which its strict mode requires; otherwise pytest's own, for anyio."""
    try:
        from pytest_asyncio import fixture
    except ImportError:
        return pytest.fixture(function)
    return fixture(function)


__all__ = ["pymicro_services"]


@_fixture
async def pymicro_services() -> AsyncIterator[Callable[..., Awaitable[Running]]]:
    """A function that runs services until the test ends: `await pymicro_services(service)`.

    It takes the arguments of `pymicro.testing.running` and returns what that yields.

    Raises:
        PymicroError: The test runs in another event loop than fixtures do; nothing was started.
    """
    from pymicro.base.errors import PymicroError
    from pymicro.testing.services import running

    home = asyncio.get_running_loop()
    ended = asyncio.Event()
    owners: list[asyncio.Task[None]] = []

    async def run(*services: Service, **settings: object) -> Running:
        if asyncio.get_running_loop() is not home:
            raise PymicroError(
                "the fixture pymicro_services lives in another event loop than this test, whose "
                "loop_scope differs: set asyncio_default_fixture_loop_scope to the same in pytest's "
                "configuration, or use `pymicro.testing.running` in the test"
            )
        started: asyncio.Future[Running] = asyncio.get_running_loop().create_future()

        async def own() -> None:
            # One task enters and leaves it, as a lifespan needs; pytest's own tasks differ between
            # a fixture's start and its end.
            try:
                async with running(*services, **settings) as found:  # type: ignore[arg-type]
                    if not started.done():  # the test may have been cancelled meanwhile
                        started.set_result(found)
                    await ended.wait()
            except Exception as exc:
                if started.done():
                    raise
                started.set_exception(exc)

        owners.append(asyncio.create_task(own(), name="pymicro_services"))
        return await started

    try:
        yield run
    finally:
        ended.set()
        for owner in reversed(owners):
            await owner
