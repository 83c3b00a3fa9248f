"""The built-in registries, selectors and balancers come through the same door as a stranger's."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pymicro.discovery.directory import Directory
from pymicro.discovery.registries.memory import MemoryRegistry
from pymicro.settings import plugins
from pymicro.settings.config import load


@pytest.mark.parametrize("name", ["etcd", "local", "mdns", "memory", "static"])
def test_a_registry_is_chosen_by_its_name(name: str) -> None:
    assert plugins.load(plugins.REGISTRIES, name)(load(environ={})).name == name


@pytest.mark.parametrize("name", ["registry", "static", "dns"])
def test_a_selector_is_chosen_by_its_name(name: str) -> None:
    directory = Directory(MemoryRegistry())
    assert plugins.load(plugins.SELECTORS, name)(load(environ={}), directory).name == name


@pytest.mark.parametrize("name", ["p2c", "round_robin", "random"])
def test_a_balancer_is_chosen_by_its_name(name: str) -> None:
    assert hasattr(plugins.load(plugins.BALANCERS, name)(load(environ={})), "pick")


def test_the_door_to_the_suites_does_not_load_pytest() -> None:
    code = "import sys, pymicro.testing; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
