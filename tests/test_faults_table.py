"""docs/faults.md names a test for every fault, and the tests are there."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "faults.md"
BUILT, DISCOVERY, CALLS = "The watch, and pods", "Discovery", "Calls"
LOGIN = "Kubeconfigs and credentials"
RIGHTS = "Rights and manifests"

# Every fault that the design set out to live through.
FAULTS = {
    BUILT: (
        "410 in the stream",
        "410 as status",
        "410 twice",
        "DELETE lost in a gap",
        "half-open TCP with no FIN",
        "live TCP but a mute stream",
        "clean close every second",
        "cut in the middle of a JSON line",
        "a 2 MB line",
        "a multi-byte character split across chunks",
        "events in the first second after the list",
        "an hour of bookmarks, then a reconnect without a re-list",
        "429 storm",
        "500s for an hour while calls go on",
        "401 after token rotation",
        "403 in mid-life",
        "a version that goes backwards",
        "`deletionTimestamp` arriving as MODIFIED",
        "the last pods being deleted",
        "label removed",
        "pod restarted under the same name and IP",
        "IP reused by another service's pod",
        "scale to 0 and back to 1",
        "service created after the client",
        "server down 2 min, then up",
        "rolling update",
        "malformed, huge and hostile annotations",
        "an IP that is not the pod's own",
        "a slow subscriber",
        "an old watcher publishing late",
        "1,000 clients restarting at once",
        "IPv6",
        "a clock jump",
        "SIGTERM before registration finished",
        "a crash without deregistering",
    ),
    LOGIN: (
        "a kubeconfig that kubectl reads otherwise",
        "more rights than the kubeconfig gives",
        "a proxy between us and the API server that is not meant for it",
        "a `~/.netrc` beside a token",
        "a cleaner of temporary files, and keys that pile up in them",
        "certificates without key identifiers",
        "a token in plain HTTP, or at another server",
        "a credential plug-in that hangs",
        "a credential plug-in that asks its user to sign in",
        "a credential plug-in that fails, under 20 watches",
        "a hint about a NetworkPolicy where none can be",
    ),
    RIGHTS: (
        "a record that sends calls elsewhere",
        "a right that comes with a label set for other reasons",
        "an account that may patch pods and that no policy meant",
        "a policy that is in the way of others",
        "a refusal by admission that is taken for a missing right",
        "one account for all services that patch",
        "all pods of a service on one machine",
        "a drain that takes pods before others have come",
        "a broken pod that keeps a machine from being drained",
        "ports of a pod that the whole cluster can reach",
    ),
    DISCOVERY: (
        "a failure that nobody thought of, in one watch",
        "a watch that is refused in the same way again and again",
        "a load balancer that cuts every watch",
        "a name server that fails for one family of addresses, or for a while",
        "a search list that answers for the target of an SRV record",
        "a mute name server",
        "a process that leaves takes its successor's registration with it",
        "what an earlier process left cannot be removed",
        "a pod that claims more than its share",
        "records made to be expensive",
        "pods and slices made to be expensive",
        "an answer of the DNS with the longest names",
        "inputs that nobody thought of",
        "a flood of whatever is said in the log",
        "foreign text in a terminal, a log or a command to paste",
        "one value in etcd too large for a message, and many unreadable ones",
        "an etcd whose space is used up",
        "members of etcd that are replaced over the years",
        "two processes with one id over mDNS",
        "a host with a thousand nodes over mDNS",
        "the folder of registry local removed, or none to write in",
        "an address that gRPC takes for something else",
        "two ports named `grpc`, or one over UDP",
    ),
    CALLS: (
        "a black-holed IP",
        "a process that is stopped and goes on later",
        "a node killed under load",
        "a call that ran is tried again",
        "a mark of one service taken for another's",
        "metadata that gRPC does not send",
        "a channel option that grpc refuses",
        "a call in the wrong event loop, or not awaited",
        "a request that cannot be serialized",
        "a response that cannot be read",
        "requests that fail",
        "interceptors of both kinds in any order",
        "eager tasks",
        "a refusal that meets a write",
        "an interceptor that proceeds twice",
        "an interceptor that fails inside a stream",
        "a context that outlives its call",
        "services that nobody calls any more",
        "calls and waits while a channel or client closes",
        "a plug-in that misbehaves in the path of a call",
        "timeouts that are no usual number, and waits of interceptors",
        "garbage of calls",
        "a stale stub that ejects a healthy node",
        "a node restarted on the same address",
        "an address that another service has now",
        "GOAWAY with unary, streaming and queued calls",
        "all nodes replaced under load",
        "a registry that is away",
        "channel churn",
        "`close()` during a dial",
        "cancelled and timed-out calls",
        "a fast-failing node against p2c",
        "a node ten times slower than the others",
        "60 % of nodes failing",
        "two nodes and the ejection cap",
        "a retry storm and nested retries",
        "a server's pushback",
        "a node that has too much to do",
        "a blocked event loop of 2 s causing no ejection",
        "a handler that holds the event loop",
        "long streams that gather on some nodes",
        "streams that end at their own deadline",
        "a process forked after gRPC was used",
        "`run()` where an event loop runs already",
        "JSON that loses an entry, or fails without saying where",
        "a servicer that is named like the generated one",
        "details of a status that are no text",
        "a handler that never answers",
        "an exception of a grpc.aio interceptor on the server",
        "an internal object in a user's hands",
        "a broken stream of requests that looks ended",
        "a writer that writes while it cleans up",
        "`KeyboardInterrupt` in a handler",
        "threads that outlive a stop",
        "a limit for requests that holds for responses",
        "served calls that only the garbage collector frees",
        "a status in an exception group",
        "secrets of the environment in `help`",
    ),
}

Row = tuple[str, str, str]  # fault, where it was seen, tests


def read_rows(text: str) -> dict[str, list[Row]]:
    """The tables of a document by their headings.

    Raises:
        ValueError: A row has not three cells.
    """
    tables: dict[str, list[Row]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line[3:].strip()
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            if len(cells) != 3:
                if set(line) <= set("|- "):
                    continue
                raise ValueError(f"{len(cells)} cells: {line}")
            fault, seen, tests = cells
            if fault != "fault":
                tables.setdefault(heading, []).append((fault, seen, tests))
    return tables


def named_tests(cell: str) -> list[tuple[str, str]]:
    """The files and functions in a cell."""
    return re.findall(r"`(tests/[^`:]+\.py)::([^`]+)`", cell)


@functools.cache
def collected(path: Path) -> set[str]:
    """Names of the tests in a file, `Class::test_…` in a class; found without running it."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        prefix, body = (f"{node.name}::", node.body) if isinstance(node, ast.ClassDef) else ("", [node])
        found |= {
            prefix + one.name
            for one in body
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name.startswith("test_")
        }
    return found


def problems(text: str, root: Path = ROOT) -> list[str]:
    """What is wrong with a table of faults."""
    tables = read_rows(text)
    wrong = []
    for heading, faults in FAULTS.items():
        there = {fault for fault, _, _ in tables.get(heading, [])}
        wrong += [f"{heading}: no row for: {fault}" for fault in faults if fault not in there]
    for rows in tables.values():
        for fault, seen, cell in rows:
            named = named_tests(cell)
            if not seen:
                wrong.append(f"{fault}: it does not say where it was seen")
            if not named or "not yet" in cell:
                wrong.append(f"{fault}: no test")
            for file, name in named:
                path = root / file
                if not path.exists() or name not in collected(path):
                    wrong.append(f"{fault}: there is no {file}::{name}")
    return wrong


def test_every_fault_has_a_test_that_is_there() -> None:
    assert problems(TABLE.read_text()) == []


PUSHBACK = "`tests/chaos/test_bad_nodes.py::test_pushback_is_obeyed_over_the_wire`"
CLOCK = "laptops that sleep, virtual machines that are moved"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("| 410 twice |", "| 410 thrice |", "no row for: 410 twice"),
        ("::test_410_twice`", "::test_410_thrice`", "410 twice: there is no tests/"),
        ("versions.py::test_410_twice`", "nowhere.py::test_410_twice`", "410 twice: there is no tests/"),
        ("`tests/kubernetes/api/test_faults_versions.py::test_410_twice`", "not yet", "410 twice: no test"),
        (CLOCK, "", "a clock jump: it does not say where"),
        (PUSHBACK, f"{PUSHBACK}, on a cluster not yet", "a server's pushback: no test"),
    ],
)
def test_a_table_that_lacks_something_is_noticed(old: str, new: str, said: str) -> None:
    text = TABLE.read_text()
    assert old in text
    assert any(said in problem for problem in problems(text.replace(old, new)))
