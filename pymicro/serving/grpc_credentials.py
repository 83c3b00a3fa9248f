"""What grpc-core shows and asks for in a TLS handshake, of an identity that changes."""

from __future__ import annotations

import threading

import grpc

from pymicro.base.errors import ConfigError
from pymicro.identity.identity import Identity
from pymicro.identity.keeper import IdentityKeeper

__all__ = ["GrpcServerCredentials"]


class GrpcServerCredentials:
    """Shows the newest certificate in each handshake, until it is closed.

    Connections that stand go on with the one that they began with. grpc-core speaks TLS 1.2 and 1.3, and
    nothing older.

    Args:
        keeper: Entered, and with a certificate.
        clients: The setting `tls_client_certificates`.

    Attributes:
        credentials: For a port of grpc's.

    Raises:
        ConfigError: grpc-core cannot ask for certificates in that way.
    """

    def __init__(self, keeper: IdentityKeeper, clients: str) -> None:
        if clients == "optional":
            raise ConfigError(
                "tls_client_certificates optional: transport grpc can only require certificates, or not "
                "ask for any (require, none); transport fast can ask for them"
            )
        self._keeper = keeper
        self._counting = threading.Lock()
        self._asked = clients == "require"
        first = self._configuration(keeper.current)
        self._newest = self._taken = first
        keeper.listen(self._show)
        self.credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            first,
            self._fetch,  # type: ignore[arg-type]  # it may return None
            require_client_authentication=self._asked,
        )

    def close(self) -> None:
        """Take no new certificates any more."""
        self._keeper.unlisten(self._show)

    def _show(self, identity: Identity) -> None:
        self._newest = self._configuration(identity)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The newest one if grpc-core has an older one, else None: taking one costs it a millisecond.

        grpc-core asks in each handshake, from threads of its own, and tells nobody how it ended.
        """
        with self._counting:
            self._keeper.served["begun"] += 1
        newest = self._newest
        if newest is self._taken:
            return None
        self._taken = newest
        return newest

    def _configuration(self, identity: Identity) -> grpc.ServerCertificateConfiguration:
        assert identity.key is not None
        assert identity.chain is not None
        return grpc.ssl_server_certificate_configuration(
            [(identity.key, identity.chain)], root_certificates=identity.ca if self._asked else None
        )
