"""Which connections are encrypted, and with what."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt
from pymicro.identity.identity import Identity
from pymicro.identity.keeper import IdentityKeeper
from pymicro.nodes.address import is_ip, join_address, split_address
from pymicro.nodes.node import Node
from pymicro.nodes.wellknown import tls_port

__all__ = ["NAMESPACE", "ClientTls", "Secured"]

_FIELD = re.compile(r"\{[^{}]*\}")
NAMESPACE = "{namespace}"
# Some have underscores in names that only they look up.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)
_FIELDS = ("{service}", NAMESPACE)


@dataclass(frozen=True, slots=True)
class Secured:
    """How one connection is encrypted.

    Attributes:
        address: What is dialled.
        name: The name that the node's certificate must have.
        identity: The authorities that are believed, and the certificate to show, if there is one.
    """

    address: str
    name: str
    identity: Identity


class ClientTls:
    """Decides about each node.

    Args:
        mode: The setting `client_tls`.
        server_name: The setting `tls_server_name`.
        namespace: What `{namespace}` in it stands for; empty if nothing is known.
        keeper: The certificates; None if the settings name none. Entered before `of` is asked.

    Raises:
        ConfigError: The settings contradict each other.
    """

    def __init__(
        self, mode: str, server_name: str, namespace: str = "", keeper: IdentityKeeper | None = None
    ) -> None:
        if mode == "require" and keeper is None:
            raise ConfigError(
                "client_tls require: set tls_ca, or tls_dir, so that the certificates of nodes can be checked"
            )
        for found in _FIELD.findall(server_name):
            if found not in _FIELDS:
                raise ConfigError(
                    f"tls_server_name {excerpt(server_name)}: {excerpt(found)} is nothing that can be filled "
                    f"in ({' and '.join(_FIELDS)} are)"
                )
        if NAMESPACE in server_name and not namespace:
            raise ConfigError(
                f"tls_server_name {excerpt(server_name)}: no namespace is known here: set registry_namespace "
                "to one, or write it out"
            )
        if not server_name:
            raise ConfigError("tls_server_name is empty: a certificate is checked for a name")
        self._server_name = server_name.replace(NAMESPACE, namespace)
        _checkable(self._server_name.replace("{service}", "a"))
        self.keeper = keeper
        self._mode = mode

    def of(self, node: Node, service: str) -> Secured | None:
        """How a connection to `node` is encrypted as of now; None for plain text.

        Args:
            node: Whom to connect to.
            service: What is called there, by the caller's word: a record must not be able to say which
                name its node has to prove.

        Raises:
            ConfigError: The node speaks nothing but TLS, and no certificate could be checked here; or no
                certificate can have the name that is expected.
        """
        port = tls_port(node.metadata)
        if self._mode == "off" or (port is None and self._mode != "require"):
            return None
        if self.keeper is None:
            if port:
                return None  # its address is the plain one
            raise ConfigError(
                "it speaks TLS, and its certificate cannot be checked here: set tls_ca, or tls_dir"
            )
        address = node.address
        if port:
            host, _ = split_address(address)
            address = join_address(host, port)
        name = _checkable(self._server_name.replace("{service}", service))
        return Secured(address, name, self.keeper.current)


def _checkable(name: str) -> str:
    """A name as certificates have it: each transport's library would make something else of an odd one.

    Raises:
        ConfigError: No certificate can have it.
    """
    found = name.removesuffix(".")
    if is_ip(found):
        return found
    try:
        found = found.encode("idna").decode("ascii")
    except UnicodeError:  # an empty label, or one of more than 63 characters
        found = ""
    if not _NAME.fullmatch(found):
        raise ConfigError(
            f"no certificate can be for the name {excerpt(name)}: say with tls_server_name which name nodes "
            "have"
        )
    return found
