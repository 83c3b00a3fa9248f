"""A real etcd for the tests that ask for one, the same for all tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.etcd_server import Etcd


@pytest.fixture(scope="module")
def etcd_of_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with Etcd(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


@pytest.fixture
def etcd(etcd_of_file: Etcd) -> Etcd:
    """An etcd in which nothing is."""
    etcd_of_file.delete_all("/")
    return etcd_of_file
