"""The files of a kubeconfig, merged as kubectl merges them, and the one context that is used.

Kubernetes: "Organizing Cluster Access Using kubeconfig Files". kubectl is the reference:
`tests/cluster/test_kubectl.py` gives both the same files.
"""

from __future__ import annotations

import base64
import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt, listed, shortened

__all__ = ["Context", "Section", "read_context"]

T = TypeVar("T")

# What a list of named things is called, and one of them.
_LISTS = {"contexts": "context", "clusters": "cluster", "users": "user"}
# Values that are paths, which a file may give relative to itself.
_PATHS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")


class Section:
    """A mapping in a kubeconfig, whose values are given out with the type that kubectl wants.

    Args:
        what: What it is and where, for messages: `kubeconfig /home/ada/.kube/config: user 'ada'`.
        values: As they stand in the file.
    """

    def __init__(self, what: str, values: Mapping[str, Any]) -> None:
        self.what = what
        self.values = values

    def __contains__(self, key: str) -> bool:
        return bool(self.values.get(key))

    def text(self, key: str) -> str:
        """A string; empty if there is none."""
        return self._typed(key, str, "", "no text: put it into quotes")

    def flag(self, key: str) -> bool:
        """A truth value; false if there is none."""
        return self._typed(key, bool, False, "neither true nor false")

    def items(self, key: str) -> list[Any]:
        """A list; empty if there is none."""
        return self._typed(key, list, [], "no list")

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        found = self.items(key)
        if not all(isinstance(one, str) for one in found):
            raise self.error(f"has something in {shortened(key)} that is no text: put it into quotes")
        return found

    def section(self, key: str) -> Section:
        """A mapping; empty if there is none."""
        return Section(f"{self.what}, {key}", self._typed(key, dict, {}, "no mapping"))

    def data(self, key: str) -> bytes:
        """The bytes under `key-data`, or else in the file under `key`; empty if there is neither."""
        given = self.text(f"{key}-data")
        if given:
            if key in self:
                raise self.error(f"has both {key} and {key}-data; remove one")
            try:
                return base64.b64decode("".join(given.split()), validate=True)
            except ValueError as exc:
                raise self.error(f"has {key}-data, which is no base64: {exc}") from exc
        path = self.text(key)
        if not path:
            return b""
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as exc:
            raise self.error(f"has {key}, which cannot be read: {shortened(str(exc), 500)}") from exc

    def error(self, problem: str) -> ConfigError:
        """The error for something that is wrong with it: `user 'ada' has token, which …`."""
        return ConfigError(f"{self.what} {problem}")

    def _typed(self, key: str, kind: type[T], default: T, problem: str) -> T:
        found = self.values.get(key)
        if found is None:
            return default
        if not isinstance(found, kind):
            raise self.error(f"has {shortened(key)}, which is {problem}")
        return found


@dataclass(frozen=True, slots=True)
class Context:
    """What one context names.

    Attributes:
        name: The context's name.
        namespace: Empty if it names none.
        account: The user's name; empty if it names none.
        server: The API server's URL without a trailing slash.
        cluster: The cluster's section, with paths from the root.
        user: The user's section, likewise; empty if it names none.
    """

    name: str
    namespace: str
    account: str
    server: str
    cluster: Section
    user: Section


def read_context(paths: Sequence[str], wanted: str, what: str) -> Context:
    """Read the files and find a context in them.

    Of two files that name the same thing the first one counts, whole. A file that is not there,
    or in which nothing is, is passed over.

    Args:
        paths: The files.
        wanted: The name of the context; empty for the current one.
        what: The files in a word, for messages.

    Raises:
        ConfigError: They cannot be used; the text says why.
    """
    known: dict[str, dict[str, Section]] = {plural: {} for plural in _LISTS}
    there = False
    for path in paths:
        try:
            document = _load(path)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise ConfigError(f"kubeconfig {shortened(path, 500)} cannot be read: {exc.strerror}") from exc
        there = True
        for plural in _LISTS:
            known[plural] = _named(document, plural, os.path.dirname(os.path.abspath(path))) | known[plural]
        wanted = wanted or document.text("current-context")
    if not there:
        raise ConfigError(f"{what}: there is no such file")
    if not wanted:
        raise ConfigError(f"{what} has no current context: name one with `context=NAME`")
    if wanted not in known["contexts"]:
        there_are = listed(sorted(known["contexts"])) or "none"
        raise ConfigError(f"{what} has no context {excerpt(wanted)}; there are: {there_are}")
    context = known["contexts"][wanted]
    cluster, user = context.text("cluster"), context.text("user")
    if not cluster:
        raise context.error("names no cluster")
    if cluster not in known["clusters"]:
        raise context.error(f"names cluster {excerpt(cluster)}, which is not in it")
    if user and user not in known["users"]:
        raise context.error(f"names user {excerpt(user)}, who is not in it")
    nobody = Section(context.what, {})
    return Context(
        wanted,
        context.text("namespace"),
        user,
        _server(known["clusters"][cluster]),
        known["clusters"][cluster],
        known["users"][user] if user else nobody,
    )


def _server(cluster: Section) -> str:
    server = cluster.text("server")
    if not server:
        raise cluster.error("names no server")
    try:
        parts = urlsplit(server)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise cluster.error(
            f"has the server {excerpt(server)}, which is no URL that begins with https:// or http://"
        )
    if parts.username is not None:
        # Not shown: it would go into every message, and from there into logs.
        raise cluster.error("has a password in its server's URL; it belongs to the user")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def _load(path: str) -> Section:
    import yaml

    try:
        with open(path, "rb") as file:
            # What follows a first document is not read by kubectl either.
            document = next(yaml.load_all(file.read(), _loader()), None)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise ConfigError(
            f"kubeconfig {shortened(path, 500)} is no YAML: {shortened(' '.join(str(exc).split()), 500)}"
        ) from exc
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(f"kubeconfig {shortened(path, 500)} is no mapping")
    read = Section(f"kubeconfig {shortened(path, 500)}", document)
    kind = f"{read.text('kind') or 'Config'} {read.text('apiVersion') or 'v1'}"
    if kind != "Config v1":
        raise read.error(f"is no kubeconfig: its kind is {shortened(kind)}")
    return read


def _named(document: Section, plural: str, folder: str) -> dict[str, Section]:
    """The entries of one of the lists, by name."""
    one = _LISTS[plural]
    found: dict[str, Section] = {}
    for entry in document.items(plural):
        if not isinstance(entry, dict):
            raise document.error(f"has an entry of {plural} that is no mapping")
        named = Section(f"{document.what}: an entry of {plural}", entry)
        name = named.text("name")
        values = dict(named.section(one).values)
        if name in found:
            raise document.error(f"has {one} {excerpt(name)} twice")
        for key in _PATHS:
            if isinstance(values.get(key), str) and values[key]:
                values[key] = os.path.join(folder, values[key])
        plugin = values.get("exec")
        # A command without a slash is looked for on PATH.
        if isinstance(plugin, dict) and os.sep in str(plugin.get("command", "")):
            values["exec"] = {**plugin, "command": os.path.join(folder, str(plugin["command"]))}
        found[name] = Section(f"{document.what}: {one} {excerpt(name)}", values)
    return found


@functools.cache
def _loader() -> Any:
    """A YAML loader that takes for text what kubectl takes for text.

    PyYAML alone makes a time of 2020-01-01 and a number of 12:30:45, which may be names; kubectl
    makes a number of 12e34, which may have been meant for a token.
    """
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        pass

    kept = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}
    Loader.yaml_implicit_resolvers = {
        first: [one for one in resolvers if one[0] in kept]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    # `y` and `n` are not among PyYAML's.
    Loader.bool_values = {**yaml.SafeLoader.bool_values, "y": True, "n": False}
    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"[yYnN]\Z"), list("yYnN"))
    number = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
    whole = re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)\Z")
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", whole, list("-+0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    return Loader
