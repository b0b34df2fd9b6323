"""The Redis adapter: lease, commit, take-over, pruning."""

from collections.abc import Awaitable, Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any
from uuid import uuid4

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError, WatchError

from ganger_broker.definitions import WorkflowDefinition
from ganger_broker.deployments import PoolLoad
from ganger_broker.errors import EpochSuperseded, MissingExtra, StoreError, StoreRefused
from ganger_broker.keys import Keys
from ganger_broker.messages import RunError, RunResult, RunStatus
from ganger_dispatcher.core.effects import Bury, Effect, Reply
from ganger_dispatcher.core.records import (
    Held,
    KeptLine,
    RateUse,
    RunHeader,
    Schedule,
    Snapshot,
    StepRun,
    Worker,
)

from .writes import Writes

__all__ = ["NotNew", "RedisStore", "asked", "open_redis"]

Message = Reply | Bury


class NotNew(Exception):
    """A run that was taken for new is stored already."""


_CHUNK = 500
"""Hashes read in one round trip at take-over."""
_PRUNE_AT_ONCE = 1000


def open_redis(url: str) -> Redis:
    """A client for ``redis://…``, or for ``memory://`` a Redis inside this process.

    Raises:
        MissingExtra: ``memory://`` without fakeredis.
    """
    if not url.startswith("memory://"):
        return Redis.from_url(url)
    try:
        from fakeredis import FakeAsyncRedis
    except ImportError as exc:
        raise MissingExtra("memory:// needs: pip install 'ganger[embedded]'") from exc
    return FakeAsyncRedis(server=_memory_server(url))


@cache
def _memory_server(url: str) -> Any:
    from fakeredis import FakeServer

    return FakeServer()


def _script(name: str) -> str:
    return files(__package__).joinpath(f"{name}.lua").read_text()


class RedisStore:
    """All that the dispatcher keeps, in one Redis.

    Every method raises ``StoreError`` where Redis cannot be reached or refuses; ``commit``
    raises ``EpochSuperseded`` where another dispatcher leads.
    """

    def __init__(self, redis: Redis, keys: Keys, feed_length: int = 10_000) -> None:
        self._redis = redis
        self._keys = keys
        self._feed_length = feed_length
        register = redis.register_script
        self._commit, self._lease = register(_script("commit")), register(_script("lease"))
        self._resign, self._prune = register(_script("resign")), register(_script("prune"))
        self._ended = register(_script("ended"))

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    # ── leading ───────────────────────────────────────────────────────────────────────

    async def lease(self, dispatcher: str, lease_ms: int) -> tuple[int, int]:
        """Take or renew the lease: (epoch, 0), or (0, ms until the holder's lease ends)."""
        epoch, wait = await asked(
            self._lease(keys=[self._keys.leader], args=[dispatcher, lease_ms])
        )
        return int(epoch), int(wait)

    async def resign(self, dispatcher: str) -> None:
        """End the lease early, so that a standby need not wait for it."""
        await asked(self._resign(keys=[self._keys.leader], args=[dispatcher]))

    async def commit(
        self,
        epoch: int,
        effects: Iterable[Effect],
        outbox: dict[str, Message] | None = None,
        sent: Sequence[str] = (),
        new: Sequence[str] = (),
        batch: str | None = None,
    ) -> None:
        """Store all of it or nothing. ``outbox``: messages to keep until they are ``sent``.
        ``new``: ids of runs that were not there before this.

        ``batch`` names it: what is committed again under the name of the last commit, as no
        answer came, is not stored twice.

        Raises:
            EpochSuperseded: the epoch is not the newest; nothing was written.
            NotNew: a run that was to be new is there; nothing was written.
        """
        writes = Writes(self._keys, self._feed_length)
        writes.add(effects)
        if sent:
            writes.drop(self._keys.outbox, sent)
        if outbox:
            writes.set(self._keys.outbox, dict(outbox))
        commands = writes.commands()
        if not commands:
            return
        absent = [self._keys.run(run_id) for run_id in new]
        encode = msgspec.json.encode
        words = (epoch, batch or uuid4().hex, encode(commands), encode(absent))
        outcome = await asked(self._commit(keys=[self._keys.leader], args=words))
        if outcome < 0:
            raise NotNew("a run that was to be new is there already")
        if not outcome:
            raise EpochSuperseded(f"epoch {epoch} is over: another dispatcher leads")

    async def prune(self, ended_before: int) -> int:
        """Delete some of the runs that ended before this time, ms; how many."""
        gone = await asked(
            self._prune(
                keys=[self._keys.finished, self._keys.runs],
                args=[ended_before, _PRUNE_AT_ONCE, self._keys.run(""), self._keys.log("")],
            )
        )
        return int(gone)

    # ── reading ───────────────────────────────────────────────────────────────────────

    async def ended(self, run_ids: Sequence[str]) -> dict[str, RunResult]:
        """The results of those of these runs that have ended."""
        ids = msgspec.json.encode(run_ids)
        found = await asked(self._ended(args=[self._keys.run(""), ids]))
        results = {}
        for number, workflow, status, output, error in found:
            run_id = run_ids[number - 1]
            results[run_id] = RunResult(
                workflow.decode(),
                run_id,
                RunStatus(status.decode()),
                msgspec.json.decode(output or b"{}"),
                msgspec.json.decode(error, type=RunError) if error else None,
            )
        return results

    async def load(self) -> Snapshot:
        """All that a new leader needs."""
        keys = self._keys
        definitions = await self._hashes(keys.workflow, await self._members(keys.workflows))
        by_digest: dict[str, WorkflowDefinition] = {}
        latest = []
        for fields in definitions.values():
            for field, text in fields.items():
                if field.startswith("definition:"):
                    definition = msgspec.json.decode(text, type=WorkflowDefinition)
                    by_digest[field.partition(":")[2]] = definition
            latest.append(msgspec.json.decode(fields["definition"], type=WorkflowDefinition))
        runs = await self._hashes(keys.run, await self._members(keys.active))
        held = await asked(self._redis.hvals(keys.held))
        rates = await asked(self._redis.hvals(keys.rates))
        return Snapshot(
            workflows=latest,
            definitions=by_digest,
            workers=await self.workers(),
            runs=[(run_id, *read_run(fields)) for run_id, fields in runs.items()],
            held=[msgspec.json.decode(text, type=Held) for text in held],
            schedules=await self.schedules(),
            rates=[msgspec.json.decode(text, type=RateUse) for text in rates],
            pools=await self.pools(),
        )

    async def outbox(self) -> dict[str, Message]:
        """Messages that were stored and not confirmed by the broker."""
        found = await asked(self._redis.hgetall(self._keys.outbox))
        return {
            name.decode(): msgspec.json.decode(text, type=Message) for name, text in found.items()
        }

    async def workers(self) -> list[Worker]:
        """All live workers, with labels and attempts."""
        keys = self._keys
        names = [name.decode() for name in await asked(self._redis.zrange(keys.workers, 0, -1))]
        states = await self._hashes(keys.worker, names)
        labels = await self._hashes(keys.labels, names)
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.smembers(keys.attempts(name))
        attempts = await asked(pipe.execute())
        return [
            read_worker(name, states[name], labels.get(name, {}), held)
            for name, held in zip(names, attempts, strict=True)
            if name in states
        ]

    async def schedules(self) -> list[Schedule]:
        """All schedules, the next to come first."""
        found = await asked(self._redis.hvals(self._keys.schedules))
        schedules = [msgspec.json.decode(text, type=Schedule) for text in found]
        return sorted(schedules, key=lambda schedule: (schedule.next_at, schedule.schedule_id))

    async def pools(self) -> dict[str, PoolLoad]:
        """What each pool has to do."""
        found = await asked(self._redis.hgetall(self._keys.pools))
        return {
            pool.decode(): msgspec.json.decode(text, type=PoolLoad) for pool, text in found.items()
        }

    async def counters(self) -> dict[str, int]:
        """All that was ever counted, whoever led."""
        found = await asked(self._redis.hgetall(self._keys.stats))
        return {name.decode(): int(value) for name, value in found.items()}

    async def run(self, run_id: str) -> tuple[RunHeader, dict[str, StepRun]] | None:
        """One run, ended or not; None where there is none."""
        found = await self._hashes(self._keys.run, [run_id])
        return read_run(found[run_id]) if run_id in found else None

    async def log(self, run_id: str) -> list[KeptLine]:
        """The newest lines that a run's steps have logged, in the order in which they came."""
        found = await asked(self._redis.lrange(self._keys.log(run_id), 0, -1))
        return [msgspec.json.decode(line, type=KeptLine) for line in found]

    async def newest_runs(self, most: int) -> list[tuple[str, RunHeader, dict[str, StepRun]]]:
        """The newest runs, newest first."""
        names = await asked(self._redis.zrange(self._keys.runs, 0, most - 1, desc=True))
        found = await self._hashes(self._keys.run, [name.decode() for name in names])
        return [(run_id, *read_run(fields)) for run_id, fields in found.items()]

    async def feed(self, after: str = "0", most: int = 1000) -> list[tuple[str, dict[str, str]]]:
        """Entries of the feed after this id, oldest first."""
        entries = await asked(self._redis.xrange(self._keys.feed, f"({after}", "+", most))
        return [
            (name.decode(), {field.decode(): value.decode() for field, value in fields.items()})
            for name, fields in entries
        ]

    async def _members(self, key: str) -> list[str]:
        return sorted(member.decode() for member in await asked(self._redis.smembers(key)))

    async def _hashes(self, key_of: Any, names: Sequence[str]) -> dict[str, dict[str, bytes]]:
        found: dict[str, dict[str, bytes]] = {}
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            pipe = self._redis.pipeline(transaction=False)
            for name in chunk:
                pipe.hgetall(key_of(name))
            for name, fields in zip(chunk, await asked(pipe.execute()), strict=True):
                if fields:
                    found[name] = {field.decode(): value for field, value in fields.items()}
        return found


async def asked(answer: Awaitable[Any] | Any) -> Any:
    """What Redis answers.

    Raises:
        StoreError: it cannot be reached, or refuses.
    """
    try:
        return await answer
    except WatchError:
        raise  # no failure: somebody else was faster
    except ResponseError as exc:
        raise StoreRefused(f"Redis refused: {exc}") from exc
    except (RedisError, OSError) as exc:
        raise StoreError(f"Redis: {type(exc).__name__}: {exc}") from exc


_TEXT = {
    *("workflow", "version", "definition", "status"),
    *("pinned", "parent", "sticky_to", "queued"),
    *("name", "incarnation", "state", "host"),
}


def _typed(fields: dict[str, bytes], names: Iterable[str]) -> dict[str, Any]:
    return {
        name: fields[name].decode() if name in _TEXT else msgspec.json.decode(fields[name])
        for name in names
        if name in fields
    }


def read_run(fields: dict[str, bytes]) -> tuple[RunHeader, dict[str, StepRun]]:
    """A run's hash as header and step runs."""
    header = msgspec.convert(_typed(fields, RunHeader.__struct_fields__), RunHeader)
    steps = {
        field.removeprefix("step:"): msgspec.json.decode(value, type=StepRun)
        for field, value in fields.items()
        if field.startswith("step:")
    }
    return header, steps


def read_worker(
    worker: str, fields: dict[str, bytes], labels: dict[str, bytes], attempts: Iterable[bytes]
) -> Worker:
    """A worker's keys as one value."""
    typed = _typed(fields, Worker.__struct_fields__)
    typed["id"] = worker
    typed["labels"] = {key: msgspec.json.decode(value) for key, value in labels.items()}
    given = typed.get("given_at", 0)
    typed["attempts"] = {attempt.decode(): given for attempt in attempts}
    return msgspec.convert(typed, Worker)
