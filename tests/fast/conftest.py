"""These tests need pymicro-fast, which `make fast` builds; `make test-fast` runs them."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("pymicro_fast") else ["test_*.py"]
