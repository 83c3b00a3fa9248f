"""One question to everybody on the link, and the waiting for its answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pymicro.discovery.registries.mdns.link import Link
from pymicro.discovery.registries.mdns.messages import MdnsQuestion

__all__ = ["Conversation", "MdnsTiming"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MdnsTiming:
    """How often the registry asks and how long it waits, in seconds.

    Attributes:
        quiet: A first set is whole when no answer has come for so long, but not sooner
            than twice this after the question.
        empty: A first set is empty when two questions got no answer for so long.
        answer: A question without an answer for so long counts as unanswered.
        first: The pause after the first question; doubled after each one.
        longest: The pause does not grow past this.
        unanswered: A node leaves the set after so many unanswered questions in a row.
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
    """A question that is asked again and again, and the waiting for its answers.

    Attributes:
        answers: The number of answers heard; the code that hears them counts.
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
        """Ask; returns the moment.

        Raises:
            RegistryError: The question could not be sent.
        """
        return self.link.ask(self._question)

    async def wait_for_answers(self, asked: float) -> None:
        """Wait until all have answered, as far as we can know that.

        Raises:
            RegistryError: We did not hear our own question.
        """
        loop = asyncio.get_running_loop()
        timing = self.timing
        before, answers = asked, self.answers
        again = False
        while True:
            await asyncio.sleep(timing.quiet)
            now = loop.time()
            # Late: this process was busy, and unread answers may be waiting.
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
