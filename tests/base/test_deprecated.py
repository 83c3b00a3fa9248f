"""A name that goes away works, warns whoever asks for it, and is gone in the version that was said."""

from __future__ import annotations

import types
import warnings
from pathlib import Path

import pytest

import pymicro
from pymicro import Node
from pymicro.base.deprecated import Deprecated, deprecated

OLD = {"Instance": Deprecated("pymicro.nodes.node:Node", "pymicro.Node", "0.4")}


def module() -> types.ModuleType:
    made = types.ModuleType("shop")
    made.__getattr__ = lambda name: deprecated("shop", name, OLD)  # type: ignore[method-assign]
    return made


def test_an_old_name_is_the_new_value_and_warns_the_line_that_asks() -> None:
    with pytest.warns(DeprecationWarning, match="Instance") as caught:
        assert module().Instance is Node
    (warning,) = caught
    assert str(warning.message) == "shop.Instance goes away in pymicro 0.4: use pymicro.Node"
    assert Path(warning.filename) == Path(__file__)


def test_a_name_that_never_was_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'shop' has no attribute 'Node'$"):
        _ = module().Node


def test_a_name_of_pymicro_that_goes_away_works_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pymicro, "_GOING", OLD)
    with pytest.warns(DeprecationWarning, match=r"^pymicro\.Instance goes away in pymicro 0\.4"):
        assert pymicro.Instance is Node  # type: ignore[attr-defined]


def test_a_name_whose_time_is_over_was_removed() -> None:
    now = tuple(map(int, pymicro.__version__.split(".")[:2]))
    for name, entry in pymicro._GOING.items():
        assert now < tuple(map(int, entry.gone.split("."))), (
            f"remove pymicro.{name}: it was to go in {entry.gone}"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(pymicro, name)
