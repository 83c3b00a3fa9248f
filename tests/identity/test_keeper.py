"""A process's identity is read again when its files change, and only good ones are taken."""

from __future__ import annotations

import builtins
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from pymicro.base.errors import ConfigError, PluginError
from pymicro.identity.files import CertificateFiles
from pymicro.identity.identity import Identity
from pymicro.identity.keeper import IdentityKeeper
from tests.certificates import Folder, chain_of, issue, key_of, pem_of
from tests.serving.serving import eventually

QUICK = 0.01


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "tls")


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def keeper(folder: Folder, **given: Any) -> IdentityKeeper:
    files = CertificateFiles.of(directory=str(folder.path))
    assert files is not None
    return IdentityKeeper(files, **{"period": QUICK, **given})


async def has(kept: IdentityKeeper, name: str) -> None:
    await eventually(lambda: kept.current.names == (name,), f"the certificate of {name} is taken")


async def looks(kept: IdentityKeeper, count: int) -> None:
    """It has looked at the files so often from now on."""
    rereading = kept.rereading
    assert rereading is not None
    wanted = rereading.looks + count + 1  # one may be going on
    await eventually(lambda: rereading.looks >= wanted, "it looks")


async def test_a_new_certificate_is_taken_and_told(folder: Folder, ca: trustme.CA) -> None:
    folder.issue(ca, "first")
    told: list[Identity] = []
    async with keeper(folder) as kept:
        kept.listen(told.append)
        assert kept.current.names == ("first",)
        for name in ("second", "third"):
            folder.issue(ca, name)
            await has(kept, name)
        assert [one.names for one in told] == [("second",), ("third",)]
        assert (kept.taken, kept.refused, kept.problem) == (3, 0, "")


async def test_files_that_are_swapped_all_the_time_never_make_a_mixed_set(
    folder: Folder, ca: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    leaves = [issue(ca, f"n{number}") for number in range(20)]
    folder.put(chain_of(leaves[0]), key_of(leaves[0]), pem_of(ca))
    async with keeper(folder, period=0.0005) as kept:
        for leaf in leaves * 3:
            folder.put(chain_of(leaf), key_of(leaf), pem_of(ca))
            await looks(kept, 1)
        await has(kept, "n19")
        assert kept.refused == 0
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_bad_certificate_is_told_once_and_the_one_before_goes_on(
    folder: Folder, ca: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    folder.issue(ca, "good")
    async with keeper(folder) as kept:
        folder.put(chain_of(issue(ca, "bad")), key_of(issue(ca)), pem_of(ca))
        await eventually(lambda: kept.refused == 1, "it is told")
        looked = kept.problem
        assert "does not belong to the certificate" in looked
        assert kept.current.names == ("good",)
        # It looks again and again, and says it once.
        await looks(kept, 10)
        lines = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
        assert lines == [f"certificates are not taken, and those before go on: {looked}"]
        folder.issue(ca, "better")
        await has(kept, "better")
        assert (kept.refused, kept.problem) == (1, "")


async def test_files_written_one_after_the_other_are_no_fault(
    folder: Folder, ca: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    folder.issue(ca, "first")
    async with keeper(folder, period=3600) as kept:
        leaf = issue(ca, "second")
        data = folder.path / "..data"
        (data / "tls.crt").write_bytes(chain_of(leaf))
        assert kept.rereading is not None
        kept.rereading.once()  # at half of it
        (data / "tls.key").write_bytes(key_of(leaf))
        kept.rereading.once()
        await has(kept, "second")
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_one_that_is_not_valid_yet_is_told_once_and_taken_when_it_is(
    folder: Folder, ca: trustme.CA
) -> None:
    now = [time.time()]

    def passing() -> float:
        """A second more at each look, as they are made."""
        now[0] += 1
        return now[0]

    folder.issue(ca, "now")
    async with keeper(folder, clock=passing) as kept:
        folder.issue(ca, "tomorrow", since=-1)
        await eventually(lambda: "is not valid before" in kept.problem, "it is refused")
        await looks(kept, 10)
        assert kept.refused == 1
        now[0] += 86400 + 60
        await has(kept, "tomorrow")


async def test_what_is_wrong_in_another_way_each_time_is_told_too(folder: Folder, ca: trustme.CA) -> None:
    folder.issue(ca, "good")
    async with keeper(folder, period=3600) as kept:
        rereading = kept.rereading
        assert rereading is not None
        for number in range(3):
            assert kept.problem == ""
            folder.put(b"?" * (number % 2), key_of(issue(ca)), pem_of(ca))
            rereading.once()
        await eventually(lambda: kept.refused == 1, "it is told")


async def test_one_that_grows_old_is_told_before_it_expires_and_when_it_has(
    folder: Folder, ca: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    now = [time.time()]
    folder.issue(ca, "old", days=0.1)

    def said(text: str) -> int:
        return sum(text in one.getMessage() for one in caplog.records)

    async with keeper(folder, clock=lambda: now[0]):
        now[0] += 0.095 * 86400
        await eventually(lambda: said("the certificate of old expires at") == 1, "it is told")
        now[0] += 0.1 * 86400
        await eventually(lambda: said("the certificate of old has expired at") == 1, "it is told")
    assert (said("expires at"), said("has expired at")) == (1, 1)


async def test_bad_files_at_the_start_are_an_error(folder: Folder, ca: trustme.CA) -> None:
    folder.issue(ca, days=-0.5)
    kept = keeper(folder)
    with pytest.raises(ConfigError, match="has expired"):
        await kept.__aenter__()
    folder.issue(ca)
    async with kept:  # it can be tried again
        assert kept.taken == 1


async def test_it_goes_on_until_the_last_one_leaves(folder: Folder, ca: trustme.CA) -> None:
    folder.issue(ca, "first")
    kept = keeper(folder)
    async with kept:
        async with kept:
            pass
        folder.issue(ca, "second")
        await has(kept, "second")


async def test_what_a_listener_raises_is_logged_and_reaches_nobody(
    folder: Folder, ca: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    folder.issue(ca, "first")
    told: list[Identity] = []

    def broken(identity: Identity) -> None:
        raise OSError("no room")

    async with keeper(folder) as kept:
        kept.listen(broken)
        kept.listen(told.append)
        folder.issue(ca, "second")
        await eventually(lambda: bool(told), "the other one is told")
    assert "could not be put to use everywhere" in caplog.text


async def test_without_its_extra_the_error_names_it(
    folder: Folder, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.issue(ca)
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "cryptography":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PluginError, match=r"pip install 'pymicro-grpc\[tls\]'"):
        await keeper(folder).__aenter__()
