"""The file with digests of API keys, read again when it changes.

The keys are random and long, so their SHA-256 gives nothing away: a slow hash is for passwords, which
can be guessed. Whoever reads the file cannot call.
"""

from __future__ import annotations

import hmac
import re
import tomllib
from collections.abc import Mapping
from hashlib import sha256

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt
from pymicro.identity.caller import KnownCaller
from pymicro.identity.followed_file import FollowedFile
from pymicro.identity.verdict import Proven, Rejected, Verdict

__all__ = ["KeyFile", "read_keys"]

# Characters of a key.
LONGEST = 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,199}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)

# Bytes of a digest by which it is found.
_HALF = 16

# By the first half of its digest, each key's digest and whose it is.
Keys = Mapping[bytes, tuple[bytes, Proven]]


class KeyFile(FollowedFile[Keys]):
    """Says of an API key whose it is. A file of no use is complained about, and the keys before stay.

    Args:
        path: Where the file is.
    """

    def __init__(self, path: str) -> None:
        super().__init__(
            path,
            what="API keys",
            content="digests of API keys",
            setting="api_keys",
            parse=read_keys,
            take=self._have,
        )
        self._keys: Keys = {}

    def _have(self, keys: Keys) -> None:
        self._keys = keys

    def known(self, key: str) -> Verdict:
        """Whose key this is."""
        if len(key) > LONGEST:
            return Rejected(f"it is longer than {LONGEST} characters")
        digest = sha256(key.encode("utf-8", "surrogatepass")).digest()
        # A table finds the one that may be equal: its time tells of half a digest, which leads to no key.
        found = self._keys.get(digest[:_HALF])
        if found is not None and hmac.compare_digest(found[0], digest):
            return found[1]
        return Rejected("it is not known here")


def read_keys(data: bytes, path: str) -> Keys:
    """The keys in a file.

    Args:
        data: What is in it: TOML, a name and a digest, or several, in each line.
        path: Its path, for messages.

    Raises:
        ConfigError: Says what is wrong with it. It never quotes what may be a key.
    """
    try:
        document = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is no TOML: it is not UTF-8") from exc
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigError(f"{path} is no TOML: {exc}") from exc
    found: dict[bytes, tuple[bytes, Proven]] = {}
    for name, given in document.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{path}: {excerpt(name)} is no name: letters, digits and . _ @ - are, up to 200 of them"
            )
        digests = given if isinstance(given, list) else [given]
        for digest in digests:
            if not isinstance(digest, str) or not _DIGEST.fullmatch(digest.lower()):
                raise ConfigError(
                    f"{path}: what {name} has is no SHA-256 digest of a key, 64 digits of 0-9 and a-f "
                    "(the key itself must not be in the file)"
                )
            raw, proven = bytes.fromhex(digest), Proven(KnownCaller(principal=f"key:{name}"))
            if found.setdefault(raw[:_HALF], (raw, proven))[1] != proven:
                raise ConfigError(f"{path}: {name} has the same key as another name: whose is it?")
    return found
