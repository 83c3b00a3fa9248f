"""Calls by the name of a Kubernetes Service, as go-micro's preset for Kubernetes makes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.plane import eventually
from tests.gomicro.pods import namespace
from tests.gomicro.scenes import PYTHON_CLIENT

pytestmark = pytest.mark.gomicro


def test_services_of_both_languages_are_called_by_their_names(cluster: Callable[[], Cluster]) -> None:
    with namespace(cluster()) as pods:
        for language in ("go", "python"):
            server = pods.server(language, language, "one")
            pods.expose(language, server.deployment)
        static = {"MICRO_SELECTOR": "static"}
        # go-micro's own static selector takes the name as the address; the port belongs to it.
        go = pods.go_caller(**static)
        call = {"shape": "unary", "texts": ["Ada"]}
        eventually(
            "Go calls Python",
            lambda: "error" not in go.ask("call", service="python:8080", **call),
            10.0,
        )
        python = pods.python_caller(PYTHON_CLIENT, **static)
        eventually("Python calls Go", lambda: "error" not in python.ask("call", service="go", **call), 10.0)
        for caller, service in ((go, "python:8080"), (python, "go")):
            for shape in ("server stream", "client stream", "bidi"):
                result = caller.ask("call", service=service, shape=shape, texts=["Ada"], ask={"count": 1})
                assert "error" not in result
                assert [answer["saw"]["cancelled"] for answer in result["answers"]] == ["0"]
