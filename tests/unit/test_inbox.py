"""Deliveries that wait for the dispatcher, in the order in which it handles them."""

from uuid import uuid4

from ganger_broker.settings import Settings
from ganger_broker.transport import Outgoing
from ganger_broker.transports import open_transport
from ganger_dispatcher.inbox import Inbox


async def test_of_a_batch_what_workers_say_comes_first_and_else_in_the_order_of_arrival() -> None:
    settings = Settings.load(broker_url=f"memory://{uuid4().hex}")
    transport, topology = open_transport(settings, "dispatcher"), settings.topology()
    await transport.connect()
    await transport.declare(topology.shared())
    inbox = Inbox(transport, batch=3, priority=0)
    inbox.begin(lambda queue: None)
    for queue in (topology.events, topology.triggers):
        await inbox.consume(queue)
    keys = [topology.push_key("k"), topology.trigger_key("w"), topology.event_key("a")]
    for key in [*keys, topology.event_key("b")]:
        await transport.publish([Outgoing(topology.exchange, key, b"")])
    taken = [[each.delivery.routing_key for each in inbox.take()] for _ in range(3)]
    assert taken == [["event.a", "event-push.k", "trigger.w"], ["event.b"], []]
    await inbox.close()
    await transport.close()
