"""Why a service is or is not found in etcd: its members, the user, and the values under the keys."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from pymicro.base.findings import Finding, Level
from pymicro.base.printable import as_argument, excerpt, listed, shortened
from pymicro.base.suggest import did_you_mean
from pymicro.base.turns import Turns
from pymicro.discovery.registries.etcd.client import EtcdClient
from pymicro.discovery.registries.etcd.errors import EtcdError
from pymicro.discovery.registries.etcd.keys import ROOT, prefix_of
from pymicro.discovery.registries.etcd.table import ValueReading, read_value
from pymicro.discovery.registries.etcd.users import Account

__all__ = ["diagnose"]

# The most values listed one by one; a fault of a thousand values shows on these.
_LISTED = 30
_NAMED = 20
_LONGEST_KEY = 200


@dataclass(slots=True)
class _Found:
    """The values under some keys.

    Attributes:
        keys: The number of keys.
        nodes: The number of nodes of each service.
        unreadable: Why a value is no record or has faults, by key.
        own: Readings under the keys of the service that the user asks about.
        rewritten: Of these keys, the revision of the last writing where they were written twice
            and more since they were made.
    """

    keys: int = 0
    nodes: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)
    own: dict[str, ValueReading] = field(default_factory=dict)
    rewritten: dict[str, int] = field(default_factory=dict)


async def diagnose(client: EtcdClient, service: str) -> AsyncGenerator[Finding, None]:
    """See `Diagnosable`."""
    endpoints = client.members.endpoints.addresses
    answers = await asyncio.gather(*(_status(client, endpoint) for endpoint in endpoints))
    alive = [answer for answer in answers if not isinstance(answer, EtcdError) or _is_discreet(answer)]
    for endpoint, answer in zip(endpoints, answers, strict=True):
        yield _member(endpoint, answer, bool(alive))
    if not any(isinstance(answer, EtcdError) or answer.leader for answer in alive):
        return
    prefix = ""
    if service:
        try:
            prefix = prefix_of(service)
        except ValueError as exc:
            yield Finding("name", "problem", str(exc), "give the service another name")
            return
    found: _Found | None = None
    try:
        found = await _look(client, ROOT, prefix)
    except EtcdError as exc:
        # A user who may read only this service is all right while the question is only about it.
        level = "note" if exc.kind == "denied" and prefix else "problem"
        yield Finding("keys", level, _short(exc))  # type: ignore[arg-type]
        if level == "problem":
            return
    if client.members.account.user:
        yield _user(client.members.account)
    if found is not None:
        yield _keys(found)
    if not service:
        return
    if found is None:
        try:
            found = await _look(client, prefix, prefix)
        except EtcdError as exc:
            yield Finding("nodes", "problem", _short(exc))
            return
    for finding in _service(service, prefix, found):
        yield finding
    for key in list(found.rewritten)[:_LISTED]:
        if contested := await _contested(client, key, found):
            yield contested


async def _status(client: EtcdClient, endpoint: str) -> Any:
    try:
        return await client.status(endpoint)
    except EtcdError as exc:
        return exc


def _is_discreet(error: EtcdError) -> bool:
    """Whether a member answers, but tells its status to administrators only (etcd 3.6, with users)."""
    return error.kind in ("denied", "user")


def _short(error: EtcdError) -> str:
    return str(error).removeprefix("registry etcd: ")


def _member(endpoint: str, answer: Any, others: bool) -> Finding:
    check = f"endpoint {endpoint}"
    if isinstance(answer, EtcdError):
        if _is_discreet(answer):
            return Finding(check, "ok", "answers, and tells its state to administrators only")
        text = _short(answer).removeprefix(f"{endpoint}: ")
        fix = "see whether the address is right, and etcd runs there and may be reached from here"
        return Finding(check, "note" if others else "problem", text, fix)
    what = f"etcd {shortened(answer.version)}"
    if not answer.leader:
        fix = "too few of its members run, or it is cut off from them: `etcdctl endpoint status --cluster`"
        return Finding(check, "problem", f"{what} answers and has no leader: it serves nobody", fix)
    if any("NOSPACE" in error for error in answer.errors):
        return Finding(
            check,
            "problem",
            f"{what} answers, and its space is used up (alarm NOSPACE): nothing can be registered or renewed",
            "`etcdctl compact REVISION`, then `etcdctl defrag --cluster`, then `etcdctl alarm disarm`; "
            "if it is full again soon, give etcd a larger --quota-backend-bytes",
        )
    if answer.errors:
        said = shortened("; ".join(answer.errors))
        # Of alarms there is one more, CORRUPT: then the member's data cannot be trusted.
        level: Level = "problem" if "alarm:" in said else "note"
        fix = "`etcdctl alarm list` and its documentation say what to do" if level == "problem" else ""
        return Finding(check, level, f"{what} answers, and says: {said}", fix)
    role = (
        "learns" if answer.isLearner else "leads" if answer.leader == answer.header.member_id else "follows"
    )
    return Finding(check, "ok", f"{what} answers and {role}")


def _user(account: Account) -> Finding:
    if account.needless:
        return Finding(
            "user", "note", f"etcd has no users switched on: {excerpt(account.user)} is not asked for"
        )
    return Finding("user", "ok", f"authenticated as {excerpt(account.user)}")


async def _look(client: EtcdClient, where: str, prefix: str) -> _Found:
    """Read everything under `where`; `own` gets the readings under `prefix`, unless that is empty."""
    found, turns = _Found(), Turns()
    async with aclosing(client.pages(where)) as pages:
        async for page in pages:
            for kv in page.kvs:
                key, reading = kv.key.decode(errors="backslashreplace"), read_value(kv.value)
                found.keys += 1
                found.nodes[reading.service] += len(reading.nodes)
                if reading.problem:
                    found.unreadable[key] = reading.problem
                if prefix and key.startswith(prefix):
                    found.own[key] = reading
                    if kv.version > 2:
                        found.rewritten[key] = kv.mod_revision
                await turns.give()
    return found


def _keys(found: _Found) -> Finding:
    names = sorted(name for name, nodes in found.nodes.items() if nodes)
    text = f"{found.keys} under {ROOT}: {listed(names, _NAMED) or 'nobody'}"
    if found.unreadable:
        return Finding("keys", "note", f"{text}; {len(found.unreadable)} cannot be read")
    return Finding("keys", "ok", text)


def _service(service: str, prefix: str, found: _Found) -> Iterator[Finding]:
    nodes = found.nodes[service]
    bad = [(key, reading) for key, reading in found.own.items() if reading.problem]
    for key, reading in bad[:_LISTED]:
        # Anybody may have chosen the key, and somebody will paste the command. A \ may stand
        # for a byte that is no text.
        argument = as_argument(key) if len(key) <= _LONGEST_KEY and "\\" not in key else ""
        yield Finding(
            f"key {excerpt(key, _LONGEST_KEY)}",
            "note" if nodes else "problem",
            f"does not count: {reading.problem}",
            f"etcdctl get {argument} shows it, etcdctl del takes it away" if argument else "",
        )
    if len(bad) > _LISTED:
        yield Finding("keys", "note", f"and {len(bad) - _LISTED} more that cannot be read")
    others = {reading.service for reading in found.own.values()} - {"", service}
    if others:
        yield Finding(
            "name",
            "note",
            f"{', '.join(map(excerpt, sorted(others)[:_NAMED]))} has the same keys {prefix}* "
            "(/ is written as -): told apart by the records",
        )
    if nodes:
        yield Finding("nodes", "ok", f"{nodes} node{'s' * (nodes != 1)} of {service} under {prefix}")
        return
    near = did_you_mean(service, sorted(name for name, count in found.nodes.items() if count and name))
    yield Finding(
        "nodes",
        "problem",
        f"there is no node of {service} under {prefix}{near}",
        "see whether it runs with MICRO_REGISTRY=etcd and this registry_address, "
        "and what its log says of its registration",
    )


async def _contested(client: EtcdClient, key: str, found: _Found) -> Finding | None:
    """Whether two processes write one key in turn, since they have the same id.

    Each finds at its next renewal that the other one has overwritten its record, and writes it
    again. etcd remembers the values before, until it is compacted.
    """
    addresses, revision = [_addresses(found.own[key])], found.rewritten[key]
    try:
        while len(addresses) < 3:
            before = await client.get(key, revision - 1)
            if before is None:
                return None  # a node that was deregistered in between
            addresses.append(_addresses(read_value(before.value)))
            revision = before.mod_revision
    except EtcdError:
        return None  # compacted
    now, other, earlier = addresses
    if now != earlier or now == other or not now or not other:
        return None
    return Finding(
        "ids",
        "problem",
        f"two processes have the same id and write {excerpt(key, _LONGEST_KEY)} in turn ({now}, {other}): "
        "clients see now one and now the other",
        "give each a server_id of its own, or none",
    )


def _addresses(reading: ValueReading) -> str:
    return listed([node.address for node in reading.nodes], 4)
