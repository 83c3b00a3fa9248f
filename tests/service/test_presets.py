"""Services with plug-ins chosen beforehand."""

from __future__ import annotations

import inspect

import pytest

import pymicro
from pymicro import MemoryRegistry, Service, kubernetes_service


def settled(service: Service, *flags: str, **environ: str) -> tuple[str, str]:
    config = service.config_for(flags, environ)
    return config.registry, config.selector


def test_the_preset_for_kubernetes_registers_on_the_pod_and_calls_by_name() -> None:
    assert settled(kubernetes_service("greeter")) == ("kubernetes", "static")


def test_an_operator_overrides_a_preset_and_so_does_a_keyword() -> None:
    service = kubernetes_service("greeter", selector="registry")
    assert settled(service) == ("kubernetes", "registry")
    assert settled(service, "--registry=local") == ("local", "registry")
    assert settled(service, MICRO_SELECTOR="dns") == ("kubernetes", "dns")


def test_a_preset_takes_what_a_service_takes() -> None:
    assert inspect.signature(pymicro.kubernetes_service) == inspect.signature(Service)
    service = kubernetes_service("greeter", version="2", registry=MemoryRegistry())
    assert service.config_for((), {}).server_version == "2"
    with pytest.raises(pymicro.ConfigError, match="did you mean 'stop_grace'"):
        kubernetes_service("greeter", stop_grac=1.0).config_for((), {})  # type: ignore[call-arg]
