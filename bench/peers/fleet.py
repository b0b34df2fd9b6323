"""999 more workers for Ganger's dispatcher to tell apart: registered, labelled, alive.

They say what real workers say, heartbeats every 2 s included, and are eligible for nothing
here. One process says it for all of them.
"""

import asyncio

from bench.peers.ganger_app import app

from ganger.workflow import declaration_of
from ganger_broker.codec import encode
from ganger_broker.messages import Event, Heartbeat, WorkerRegistered
from ganger_broker.topology import Topology
from ganger_broker.transport import Outgoing, Transport
from ganger_broker.transports import open_transport

WORKERS = 999
TURNS = 20
"""Parts a heartbeat interval is cut into, as real workers do not all beat at once."""


async def say(transport: Transport, topology: Topology, events: list[Event]) -> None:
    await transport.publish(
        [
            Outgoing(topology.exchange, topology.event_key(event.worker), encode([event]))
            for event in events
        ]
    )


async def main() -> None:
    settings = app.settings
    topology = settings.topology()
    transport = open_transport(app.settings, "fleet")
    await transport.connect()
    await transport.declare(topology.shared())
    workflows = [declaration_of(workflow).definition for workflow in app.workflows.values()]
    registered: list[Event] = [
        WorkerRegistered(
            f"pretend-{number}",
            "1",
            name="pretend",
            slots=10,
            labels={
                "real": "no",
                "zone": "abcdef"[number % 6],
                "memory": 64 << number % 5,
                "model": f"model-{number % 20}",
            },
            workflows=workflows,
        )
        for number in range(WORKERS)
    ]
    await say(transport, topology, registered)
    print("registered", flush=True)
    beats: list[Event] = [Heartbeat(event.worker, "1") for event in registered]
    while True:
        for turn in range(TURNS):
            await say(transport, topology, beats[turn::TURNS])
            await asyncio.sleep(settings.heartbeat_interval / TURNS)


if __name__ == "__main__":
    asyncio.run(main())
