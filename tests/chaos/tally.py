"""The account of a test: what was sent, what ran, how often, and what the callers were told."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tests.chaos.fleet import Execution
from tests.chaos.proto import MAY_RUN_TWICE

__all__ = ["Call", "Tally"]

# Calls that a message shows.
SHOWN = 5


@dataclass(slots=True)
class Call:
    """A call as its caller saw it; times of `time.time()`.

    Attributes:
        code: The status's name; empty while it runs.
        node: Address of the node of the last attempt.
        complete: Whether the answer was its own, and a stream's messages were all there.
    """

    id: str
    method: str
    begun: float
    ended: float = 0.0
    code: str = ""
    node: str = ""
    text: str = ""
    complete: bool = True


class Tally:
    """Calls and what the nodes' journals say of them.

    Args:
        calls: All that were begun; they have ended.
        journal: Of all nodes; other people's calls in it are left out.
    """

    def __init__(self, calls: Iterable[Call], journal: Sequence[Execution] = ()) -> None:
        self.calls = list(calls)
        self._by_id = {call.id: call for call in self.calls}
        self.journal = [line for line in journal if line.call in self._by_id]
        self.ran: dict[str, list[Execution]] = defaultdict(list)
        for line in self.journal:
            if line.event == "begin":
                self.ran[line.call].append(line)

    @property
    def answered(self) -> list[Call]:
        return [call for call in self.calls if call.code == "OK"]

    @property
    def failed(self) -> list[Call]:
        return [call for call in self.calls if call.code != "OK"]

    def shares(self) -> Counter[str]:
        """Executions by the name of the node."""
        return Counter(line.node for line in self.journal if line.event == "begin")

    def retried(self) -> int:
        """Attempts after the first that reached a node."""
        return sum(line.attempt > 0 for line in self.journal if line.event == "begin")

    def describe(self) -> str:
        """All figures in one line."""
        again = sum(len(lines) > 1 for lines in self.ran.values())
        codes = Counter(call.code or "never ended" for call in self.failed)
        text = ", ".join(f"{count} {code}" for code, count in codes.most_common()) or "none"
        return (
            f"{len(self.calls)} calls, {len(self.answered)} answered, failed: {text};"
            f" {sum(map(len, self.ran.values()))} executions, {self.retried()} of them retries,"
            f" {again} calls ran more than once"
        )

    # What has to hold; each says what was there instead

    def check(self) -> None:
        """Every call was answered, once, with an answer that is whole; no unmarked call ran twice."""
        self.sound()
        self._none("calls failed", self.failed)

    def sound(self) -> None:
        """Every call ended; answers are whole and were worked for; nothing unmarked ran twice."""
        assert self.calls, "nothing was called"
        self._none("calls never ended", [call for call in self.calls if not call.code])
        self._none("answers are not whole", [call for call in self.answered if not call.complete])
        if self.journal:
            self._none(
                "calls were answered and ran nowhere", [c for c in self.answered if c.id not in self.ran]
            )
        self.no_unmarked_method_ran_twice()

    def no_unmarked_method_ran_twice(self) -> None:
        """Of all that ran, by the nodes' own account."""
        twice = {
            call: lines
            for call, lines in self.ran.items()
            if len(lines) > 1 and lines[0].method not in MAY_RUN_TWICE
        }
        if twice:
            lines = [
                f"  {call}: " + ", ".join(f"{one.node} (pid {one.pid}) attempt {one.attempt}" for one in ran)
                for call, ran in list(twice.items())[:SHOWN]
            ]
            raise AssertionError("\n".join([f"{len(twice)} unmarked calls ran more than once:", *lines]))

    def failed_only_on(self, addresses: Collection[str], code: str = "UNAVAILABLE") -> None:
        """Whatever failed was on one of these nodes, and failed with `code`."""
        self._none(
            f"calls failed elsewhere than on {', '.join(addresses)}, or not with {code}",
            [call for call in self.failed if call.node not in addresses or call.code != code],
        )

    def _none(self, what: str, calls: Sequence[Call]) -> None:
        if not calls:
            return
        kinds = Counter((call.code, call.node, call.text) for call in calls)
        lines = [
            f"  {count} × {code} on {node or 'no node'}: {text}"
            for (code, node, text), count in kinds.most_common(SHOWN)
        ]
        start = self.calls[0].begun
        for call in calls[:SHOWN]:
            ran = ", ".join(
                f"{line.event} on {line.node} at {line.at - start:.3f} (attempt {line.attempt})"
                for line in self.journal
                if line.call == call.id
            )
            lines.append(
                f"  {call.id} {call.begun - start:.3f}–{call.ended - start:.3f} s: {ran or 'ran nowhere'}"
            )
        raise AssertionError("\n".join([f"{len(calls)} {what} ({self.describe()})", *lines]))
