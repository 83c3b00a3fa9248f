"""Label and field selectors, as the API server reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.fakes.kube_status import Refused

__all__ = ["Selector", "selector"]

Object = Mapping[str, Any]
Selector = Callable[[Object], bool]

_SET = re.compile(r"\s*(\S+)\s+(in|notin)\s*\(([^)]*)\)\s*")
_PAIR = re.compile(r"\s*([^\s=!]+)\s*(==|=|!=)\s*(\S*)\s*")
_KEY = re.compile(r"\s*(!?)\s*([^\s=!,()]+)\s*")

# What the real server lets one select by, besides what all resources have.
_FIELDS = {
    "pods": ("spec.nodeName", "spec.serviceAccountName", "status.phase", "status.podIP"),
    "endpointslices": (),
}


def selector(plural: str, labels: str, fields: str) -> Selector:
    """Whether an object has these labels and fields.

    Raises:
        Refused: 400, for what the real server would not understand either.
    """
    tests = [_label(part) for part in _parts(labels)] + [_field(plural, part) for part in _parts(fields)]
    return lambda obj: all(test(obj) for test in tests)


def _parts(text: str) -> list[str]:
    return [part for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def _labels(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def _label(part: str) -> Selector:
    if found := _SET.fullmatch(part):
        key, wanted = found[1], {value.strip() for value in found[3].split(",")}
        if found[2] == "in":
            return lambda obj: _labels(obj).get(key) in wanted
        return lambda obj: _labels(obj).get(key) not in wanted
    if found := _PAIR.fullmatch(part):
        key, value = found[1], found[3]
        if found[2] == "!=":
            return lambda obj: _labels(obj).get(key) != value
        return lambda obj: _labels(obj).get(key) == value
    if found := _KEY.fullmatch(part):
        key, present = found[2], not found[1]
        return lambda obj: (key in _labels(obj)) is present
    raise Refused(400, f"unable to parse requirement: {part!r}")


def _field(plural: str, part: str) -> Selector:
    found = _PAIR.fullmatch(part)
    if not found:
        raise Refused(400, f"invalid selector: {part!r}; can't understand it")
    name, value, equal = found[1], found[3], found[2] != "!="
    if name not in ("metadata.name", "metadata.namespace", *_FIELDS.get(plural, ())):
        raise Refused(400, f"field label not supported: {name}")

    def test(obj: Object) -> bool:
        at: Any = obj
        for step in name.split("."):
            at = (at or {}).get(step)
        return ((at or "") == value) is equal

    return test
