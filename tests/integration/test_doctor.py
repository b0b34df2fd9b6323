"""``ganger doctor`` on a real RabbitMQ and Redis, with and without a dispatcher."""

import pika
import pytest

from ganger_broker.settings import Settings
from ganger_broker.topology import Topology
from ganger_broker.transport import Outgoing
from ganger_broker.transports import open_transport
from ganger_dispatcher.doctor import Finding, Status, examine
from ganger_dispatcher.embedded import EmbeddedDispatcher
from ganger_dispatcher.store import RedisStore, open_redis
from tests.unit.core.world import World, one_step


@pytest.fixture
def settings(broker_url: str, redis_url: str, prefix: str) -> Settings:
    return Settings.load(broker_url=broker_url, redis_url=redis_url, prefix=prefix)


async def found(settings: Settings) -> dict[str, Finding]:
    return {finding.check: finding for finding in await examine(settings)}


async def test_before_the_first_dispatcher_nothing_is_there_and_nothing_is_made(
    settings: Settings,
) -> None:
    for _ in range(2):
        findings = await found(settings)
        assert findings["broker"].found.startswith("RabbitMQ ")
        assert findings["redis"].found.startswith("Redis ")
        assert findings["queues"].found.startswith("not declared yet")
        assert findings["leader"].status is Status.WRONG
        assert findings["workers"].status is Status.WARNING


async def test_a_deployment_at_work_and_its_dead_letters(settings: Settings) -> None:
    dispatcher = EmbeddedDispatcher(settings)
    await dispatcher.start()
    findings = await found(settings)
    well = ("broker", "queues", "dead letters", "redis", "clocks", "leader", "pending")
    assert {findings[check].status for check in well} == {Status.OK}
    assert findings["queues"].found.startswith("declared as they must be")

    transport = open_transport(settings, "test")
    await transport.connect()
    await transport.publish([Outgoing("", settings.topology().dead, b"nobody's")])
    await transport.close()
    await dispatcher.stop()

    findings = await found(settings)
    assert (findings["dead letters"].status, findings["dead letters"].found) == (
        Status.WARNING,
        "1",
    )
    assert findings["leader"].status is Status.WRONG


async def test_a_queue_that_is_there_with_other_arguments(
    settings: Settings, broker_url: str
) -> None:
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        name = Topology(settings.prefix).triggers
        connection.channel().queue_declare(name, durable=True)
    queues = (await found(settings))["queues"]
    assert queues.status is Status.WRONG
    assert name in queues.found
    assert "inequivalent arg" in queues.found


async def test_steps_that_no_worker_can_take(settings: Settings) -> None:
    world = World()
    flow = one_step(desired_worker_labels={"gpu": 1})
    effects = world.join("full", {"gpu": 1}, workflows=[flow])
    for run_id in ("takes-it", "waits"):
        effects += world.trigger(run_id)
    effects += world.trigger("stuck", desired_worker_labels={"gpu": 2})
    effects += world.trigger("held", "unknown")
    store = RedisStore(open_redis(settings.redis_url), settings.keys())
    epoch, _ = await store.lease("leader", 60_000)
    await store.commit(epoch, effects)
    await store.close()

    findings = await found(settings)
    assert findings["pending"].found == "2 waiting, 1 for what no worker here has: stuck/s"
    assert findings["triggers"].found.startswith("1 waiting for a workflow")
    assert "silent for more than 10 s: full" in findings["workers"].found
    assert findings["leader"].found.startswith("leader, epoch 1, lease good for")
