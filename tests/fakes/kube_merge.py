"""Patches, as far as pods and endpoint slices need them."""

from __future__ import annotations

from typing import Any

__all__ = ["merge"]

# patchMergeKey of the lists a pod has; other lists are replaced whole.
_KEYS = {"containers": "name", "conditions": "type", "env": "name", "ports": "containerPort", "podIPs": "ip"}


def merge(old: Any, patch: Any, *, strategic: bool, field: str = "") -> Any:
    """`old` with `patch` merged in: null removes, objects merge, lists merge by key if strategic."""
    if isinstance(patch, dict):
        merged = dict(old) if isinstance(old, dict) else {}
        for key, value in patch.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = merge(merged.get(key), value, strategic=strategic, field=key)
        return merged
    if isinstance(patch, list) and isinstance(old, list) and strategic and field in _KEYS:
        by = _KEYS[field]
        merged_items = {item[by]: item for item in old}
        for item in patch:
            merged_items[item[by]] = merge(merged_items.get(item[by], {}), item, strategic=True)
        return list(merged_items.values())
    return patch
