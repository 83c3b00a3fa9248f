"""The label and annotation keys under which a pod carries go-micro's record, and what it is of."""

from __future__ import annotations

import re

from pymicro.base.printable import excerpt

__all__ = [
    "METADATA_PREFIX",
    "PORT_PREFIX",
    "RECORD_PREFIX",
    "SELECTOR_PREFIX",
    "SERVICE",
    "TYPE_LABEL",
    "label_problem",
    "port_key",
    "record_key",
    "san",
    "selector_key",
]

# go-micro's keys and their value (go-plugins, registry/kubernetes).
TYPE_LABEL = "micro.mu/type"
SELECTOR_PREFIX = "micro.mu/selector-"
RECORD_PREFIX = "micro.mu/service-"
SERVICE = "service"
# Our own keys: metadata of a pod that carries no record, and which port of it a service has.
METADATA_PREFIX = "micro.mu/metadata-"
PORT_PREFIX = "micro.mu/port-"

# A label's name part may have 63 characters (Kubernetes, "Labels and Selectors"),
# of which `selector-` takes 9.
LONGEST_NAME = 54

_OUTSIDE = re.compile(rb"[^-A-Za-z0-9_.]")


def san(name: str) -> str:
    """`name` as label and annotation keys carry it: each UTF-8 byte that they forbid becomes `_`."""
    return _OUTSIDE.sub(b"_", name.encode(errors="surrogatepass")).decode()


def selector_key(service: str) -> str:
    """The label that selects pods of `service`."""
    return SELECTOR_PREFIX + san(service)


def record_key(service: str) -> str:
    """The annotation with the record of `service`."""
    return RECORD_PREFIX + san(service)


def port_key(service: str) -> str:
    """The annotation that says which port of a labelled pod is that of `service`: a name or a number."""
    return PORT_PREFIX + san(service)


def label_problem(service: str) -> str:
    """Why pods cannot carry `service` in a label; empty if they can."""
    key = san(service)
    if not key:
        return "a service's name is empty"
    if len(key) > LONGEST_NAME:
        return f"{excerpt(service)} has {len(key)} bytes; as a pod's label it may have {LONGEST_NAME}"
    if not key[-1].isalnum():
        changed = f" (as a label {excerpt(key)})" if key != service else ""
        return f"{excerpt(service)}{changed} does not end in a letter or digit, as a pod's label must"
    return ""
