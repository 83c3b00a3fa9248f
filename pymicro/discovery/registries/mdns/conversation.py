"""One question to everybody on the link, and when its answers have come."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pymicro.discovery.registries.mdns.link import Link
from pymicro.discovery.registries.mdns.messages import MdnsQuestion

__all__ = ["Conversation", "MdnsTiming"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MdnsTiming:
    """How often is asked and how long is waited, in seconds.

    Attributes:
        quiet: A first set is whole when no answer has come for so long, twice
            this after the question at the earliest.
        empty: A first set is empty when there was no answer for so long, to two questions.
        answer: When a question counts as unanswered.
        first: The pause after the first question; doubled after each one.
        longest: The pause does not grow past this.
        unanswered: Questions in a row that a node leaves unanswered before it leaves the set.
        gather: Changes are gathered for so long.
    """

    quiet: float = 0.05
    empty: float = 0.3
    answer: float = 1.0
    first: float = 1.0
    longest: float = 15.0
    unanswered: int = 4
    gather: float = 0.05


class Conversation:
    """A question that is asked again and again, and the waiting for those who answer it.

    Attributes:
        answers: How many were heard; whoever hears them counts.
    """

    def __init__(self, link: Link, timing: MdnsTiming, question: MdnsQuestion) -> None:
        self.link = link
        self.timing = timing
        self.answers = 0
        self._question = question

    def found(self) -> bool:
        """Whether anything is known."""
        raise NotImplementedError

    def ask(self) -> float:
        """Ask; returns when that was.

        Raises:
            RegistryError: It could not be sent.
        """
        return self.link.ask(self._question)

    async def wait_for_answers(self, asked: float) -> None:
        """Wait until all have answered, as far as that can be known.

        Raises:
            RegistryError: Our own question was not heard.
        """
        loop = asyncio.get_running_loop()
        timing = self.timing
        before, answers = asked, self.answers
        again = False
        while True:
            await asyncio.sleep(timing.quiet)
            now = loop.time()
            # Late: this process was busy, and answers may lie there unread.
            late = now - before > 1.5 * timing.quiet
            changed = answers != self.answers
            before, answers = now, self.answers
            if now - asked >= timing.answer * (4 if late else 1):
                break
            if late or changed or self.link.echoed < asked or now - asked < 2 * timing.quiet:
                continue
            if self.found() or now - asked >= timing.empty:
                break
            if not again:
                again = True
                self.ask()
        if self.link.echoed < asked:
            raise self.link.doubt()
