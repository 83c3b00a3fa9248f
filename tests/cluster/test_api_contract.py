"""The real API server passes the suite that the fake one passes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest

from tests.cluster.plane import ControlPlane
from tests.fakes.api_contract import Api, ApiContract

pytestmark = pytest.mark.cluster


class TestKubeApiserver(ApiContract):
    @pytest.fixture(autouse=True)
    def _plane(self, plane: ControlPlane) -> None:
        self.plane = plane

    @contextlib.asynccontextmanager
    async def api(self) -> AsyncIterator[Api]:
        namespace = await asyncio.to_thread(self.plane.namespace)
        async with self._as(self.plane.token, namespace) as api:
            yield api

    @contextlib.asynccontextmanager
    async def reader(self, api: Api) -> AsyncIterator[Api]:
        def token() -> str:
            self.plane.account(api.namespace, "reader", verbs="list,watch", resource="pods")
            return self.plane.token_for(api.namespace, "reader")

        async with self._as(await asyncio.to_thread(token), api.namespace) as reader:
            yield reader

    async def forget_versions(self, api: Api) -> None:
        def forget() -> None:
            self.plane.compact()
            # Its watch cache would go on answering for versions that etcd has forgotten.
            self.plane.restart_apiserver()

        await asyncio.to_thread(forget)

    def _as(self, token: str, namespace: str) -> Api:
        trust = ssl.create_default_context(cafile=self.plane.ca_file)
        return Api(self.plane.url, {"Authorization": f"Bearer {token}"}, trust, namespace)
