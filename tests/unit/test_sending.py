"""What becomes of messages that the broker will not take: they cost nobody else anything."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import structlog

from ganger_broker.errors import TransportError
from ganger_broker.messages import RunResult, RunStatus
from ganger_broker.to_worker import Assignment, RegisterAgain
from ganger_broker.topology import Topology
from ganger_broker.transport import Delivery, Outgoing, Published
from ganger_dispatcher import sending
from ganger_dispatcher.core.core import Fact
from ganger_dispatcher.core.effects import Assign, Bury, Reply, Tell
from ganger_dispatcher.core.facts import AssignmentImpossible, AssignmentReturned, MessageDropped
from ganger_dispatcher.core.records import ReplyAddress
from ganger_dispatcher.inbox import Received
from ganger_dispatcher.outgoing import Sendable
from ganger_dispatcher.sending import Sender

CONFIRMED, RETURNED = Published.CONFIRMED, Published.RETURNED
REFUSED, IMPOSSIBLE = Published.REFUSED, Published.IMPOSSIBLE
TOPOLOGY = Topology("t")


class Broker:
    """A transport that says of each message what the test wants; and an inbox."""

    def __init__(self) -> None:
        self.say: Callable[[Outgoing], Published] = lambda _: CONFIRMED
        self.published: list[Outgoing] = []
        self.declared = 0
        self.settled: list[Any] = []

    async def publish(self, messages: Sequence[Outgoing]) -> list[Published]:
        self.published += messages
        return [self.say(message) for message in messages]

    async def declare(self, _: Any) -> None:
        self.declared += 1

    async def delete_queue(self, _: str) -> None:
        raise TransportError("not allowed")

    def settle(self, batch: Sequence[Any]) -> None:
        self.settled += batch


class Bench:
    def __init__(self) -> None:
        self.broker = broker = Broker()
        self.facts: list[Fact] = []
        self.failed = False
        given: Any = broker
        self.sender = Sender(
            given,
            TOPOLOGY,
            given,
            structlog.get_logger("test"),
            epoch=1,
            tell=self.facts.append,
            fail=self.fail,
        )

    def fail(self) -> None:
        self.failed = True

    async def send(self, *messages: Sendable, batch: Sequence[Any] = (), gone: Any = ()) -> None:
        names = [str(number) for number, _ in enumerate(messages)]
        await self.sender.send(messages, names, list(batch), gone)
        await asyncio.gather(*self.sender._sending)
        assert not self.failed

    async def rest(self) -> None:
        """Until nothing is tried again any more."""
        await asyncio.gather(*self.sender._resting)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(sending, "_RESTS", (0.01, 0.01, 0.01))
    return Bench()


def reply(to: str = "q") -> Reply:
    return Reply(ReplyAddress(to, "c"), RunResult("w", "r", RunStatus.SUCCEEDED))


def letter(body: bytes = b"no trigger", **headers: Any) -> Bury:
    return Bury(body, None, "trigger.w", "malformed", "x" * 3000, headers=headers)


def assign(attempt: str = "r/s/1") -> Assign:
    return Assign("w", Assignment(attempt, "w:s", "1", "r", {}))


def received(body: bytes) -> Received:
    subscription: Any = None
    return Received(Delivery(body, "trigger.w", 1), "t.triggers", subscription)


async def test_a_reply_that_is_refused_is_tried_again_beside_everything_else(bench: Bench) -> None:
    answers = iter([REFUSED, REFUSED, CONFIRMED])
    bench.broker.say = lambda message: next(answers) if message.routing_key == "full" else CONFIRMED
    delivery = received(b"done")
    await bench.send(reply("full"), reply("other"), batch=[delivery])
    assert bench.broker.settled == [delivery]
    assert bench.sender.sent == ["1"]
    await bench.rest()
    assert bench.sender.sent == ["1", "0"]
    assert bench.facts == []


async def test_a_reply_that_is_always_refused_is_dropped_in_the_end(bench: Bench) -> None:
    bench.broker.say = lambda _: REFUSED
    await bench.send(reply())
    await bench.rest()
    assert len(bench.broker.published) == 4
    assert (bench.sender.sent, bench.facts) == (["0"], [MessageDropped("reply")])


async def test_too_many_that_are_refused_are_dropped_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_MOST_RESTING", 1)
    bench.broker.say = lambda _: REFUSED
    await bench.send(reply("a"), reply("b"))
    assert bench.sender.sent == ["1"]
    await bench.rest()


async def test_a_dead_letter_that_is_refused_keeps_its_delivery_until_it_is_kept(
    bench: Bench,
) -> None:
    answers = iter([REFUSED, CONFIRMED])
    bench.broker.say = lambda message: next(answers) if message.exchange == "t.dead" else CONFIRMED
    bad, good = received(b"no trigger"), received(b"good")
    await bench.send(letter(bad.delivery.body), batch=[bad, good])
    assert bench.broker.settled == [good]
    await bench.rest()
    assert bench.broker.settled == [good, bad]


async def test_a_dead_letter_whose_headers_are_impossible_goes_without_them(bench: Bench) -> None:
    bench.broker.say = lambda message: IMPOSSIBLE if "theirs" in message.headers else CONFIRMED
    await bench.send(letter(theirs=1))
    _, bare = bench.broker.published
    assert bare.headers["ganger-headers"] == "left out, the broker did not take them"
    assert bare.headers["ganger-reason"] == "malformed"
    assert len(bare.headers["ganger-detail"]) == 200
    assert bench.facts == []


async def test_one_that_cannot_be_packed_does_not_keep_others_back(bench: Bench) -> None:
    def say(message: Outgoing) -> Published:
        if message.routing_key == "bad":
            raise TransportError("cannot be packed")
        return CONFIRMED

    bench.broker.say = say
    await bench.send(reply("good"), reply("bad"), reply("better"))
    assert bench.sender.sent == ["0", "1", "2"]
    assert bench.facts == [MessageDropped("reply")]


async def test_a_word_to_a_worker_that_is_not_bound_goes_to_its_queue(bench: Bench) -> None:
    bench.broker.say = lambda message: RETURNED if message.exchange else CONFIRMED
    await bench.send(Tell("a", RegisterAgain()))
    by_name = bench.broker.published[1]
    assert (by_name.exchange, by_name.routing_key) == ("", "t.worker.a")
    assert bench.facts == []


@pytest.mark.parametrize(
    ("outcome", "fact"),
    [
        (RETURNED, AssignmentReturned("w", "r/s/1", no_queue=True)),
        (REFUSED, AssignmentReturned("w", "r/s/1", no_queue=False)),
        (IMPOSSIBLE, AssignmentImpossible("w", "r/s/1")),
    ],
)
async def test_an_assignment_that_is_not_sent_is_told(
    bench: Bench, outcome: Published, fact: Fact
) -> None:
    bench.broker.say = lambda _: outcome
    await bench.send(assign())
    await bench.rest()
    assert bench.facts == [fact]


async def test_a_queue_that_cannot_be_deleted_is_left(bench: Bench) -> None:
    await bench.send(gone=["a"])
