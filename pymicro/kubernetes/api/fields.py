"""Fields of the API's JSON, which may lack anything and be of any shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["mapping_at", "mappings_at"]


def mapping_at(found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The mapping under `key`; an empty one if there is none."""
    inner = found.get(key)
    return inner if isinstance(inner, dict) else {}


def mappings_at(found: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The mappings in the list under `key`, without its other elements."""
    inner = found.get(key)
    return [one for one in inner if isinstance(one, dict)] if isinstance(inner, list) else []
