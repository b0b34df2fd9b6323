"""The Redis adapter: lease, commit, take-over, pruning."""

from collections.abc import Awaitable, Iterable, Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Any, TypeVar
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

from .reading import read_run, read_worker, readable, unreadable
from .writes import Writes

__all__ = ["NotNew", "RedisStore", "SetBack", "asked", "open_redis"]

T = TypeVar("T")

Message = Reply | Bury


class NotNew(Exception):
    """A run that was taken for new is stored already."""


class SetBack(StoreError):
    """Redis does not have the last commit that it confirmed: it has lost its newest writes."""


_NOT_NEW, _SET_BACK = -1, -2
"""What the commit script answers, having written nothing."""
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
        self._last_batch = ""
        """The name of the last commit, as far as it is known."""

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
            SetBack: what was committed last is not there any more; nothing was written.
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
        named = batch or uuid4().hex
        words = (epoch, named, encode(commands), encode(absent), self._last_batch)
        outcome = await asked(self._commit(keys=[self._keys.leader], args=words))
        if outcome == _NOT_NEW:
            raise NotNew("a run that was to be new is there already")
        if outcome == _SET_BACK:
            raise SetBack(f"commit {self._last_batch} was confirmed and is not there any more")
        if not outcome:
            raise EpochSuperseded(f"epoch {epoch} is over: another dispatcher leads")
        self._last_batch = named

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
        for number, *said in found:
            run_id = run_ids[number - 1]
            read = partial(_result, run_id, *said)
            if (result := readable(self._keys.run(run_id), read)) is not None:
                results[run_id] = result
        return results

    async def load(self) -> Snapshot:
        """All that a new leader needs."""
        keys = self._keys
        # of what comes after it nothing may be lost unseen
        self._last_batch = _name(await asked(self._redis.hget(keys.leader, "batch")) or b"")
        latest, by_digest, came = await self._definitions()
        runs = await self._hashes(keys.run, await self._members(keys.active))
        return Snapshot(
            workflows=latest,
            definitions=by_digest,
            came=came,
            workers=await self.workers(),
            runs=self._runs(runs),
            held=await self.held(),
            schedules=await self.schedules(),
            rates=await self._values(keys.rates, RateUse),
            pools=await self.pools(),
        )

    async def _definitions(
        self,
    ) -> tuple[list[WorkflowDefinition], dict[str, WorkflowDefinition], dict[str, list[str]]]:
        """The newest of each workflow, all by digest, and the digests of each as they came."""
        keys = self._keys
        found = await self._hashes(keys.workflow, await self._members(keys.workflows))
        latest, by_digest, came = [], {}, {}
        for name, fields in found.items():
            read = {
                field: definition
                for field, text in fields.items()
                if field.partition(":")[0] == "definition"
                and (definition := readable(keys.workflow(name), partial(_definition, text)))
            }
            if "definition" in read:
                latest.append(read.pop("definition"))
            own = {field.partition(":")[2]: each for field, each in read.items()}
            by_digest.update(own)
            order = partial(msgspec.json.decode, fields.get("came", b"[]"), type=list[str])
            if own:
                came[name] = readable(keys.workflow(name), order) or sorted(
                    own, key=lambda which: own[which] in latest
                )
        return latest, by_digest, came

    async def outbox(self) -> dict[str, Message]:
        """Messages that were stored and not confirmed by the broker."""
        return await self._fields(self._keys.outbox, Message)

    async def workers(self) -> list[Worker]:
        """All live workers, with labels and attempts."""
        keys = self._keys
        names = [_name(name) for name in await asked(self._redis.zrange(keys.workers, 0, -1))]
        states = await self._hashes(keys.worker, names)
        labels = await self._hashes(keys.labels, names)
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.smembers(keys.attempts(name))
        attempts = await asked(pipe.execute(False))
        workers = [
            readable(
                keys.worker(name),
                partial(read_worker, name, states[name], labels.get(name, {}), of),
            )
            for name, of in zip(names, attempts, strict=True)
            if name in states
        ]
        return [worker for worker in workers if worker is not None]

    async def schedules(self) -> list[Schedule]:
        """All schedules, the next to come first."""
        schedules = await self._values(self._keys.schedules, Schedule)
        return sorted(schedules, key=lambda schedule: (schedule.next_at, schedule.schedule_id))

    async def pools(self) -> dict[str, PoolLoad]:
        """What each pool has to do."""
        return await self._fields(self._keys.pools, PoolLoad)

    async def counters(self) -> dict[str, int]:
        """All that was ever counted, whoever led."""
        found = await asked(self._redis.hgetall(self._keys.stats))
        return {name.decode(): int(value) for name, value in found.items()}

    async def run(self, run_id: str) -> tuple[RunHeader, dict[str, StepRun]] | None:
        """One run, ended or not; None where there is none."""
        found = await self._hashes(self._keys.run, [run_id])
        key = self._keys.run(run_id)
        return readable(key, partial(read_run, found[run_id])) if run_id in found else None

    async def definition(self, workflow: str, digest: str) -> WorkflowDefinition | None:
        """The definition of a workflow that runs began with."""
        key = self._keys.workflow(workflow)
        text = await asked(self._redis.hget(key, f"definition:{digest}"))
        return None if text is None else readable(key, partial(_definition, text))

    async def held(self) -> list[Held]:
        """The triggers that wait for their workflow, those that are given up first before."""
        held = await self._values(self._keys.held, Held)
        return sorted(held, key=lambda each: (each.until, each.run_id))

    async def held_run(self, run_id: str) -> Held | None:
        """The trigger of this run, where that waits for its workflow."""
        text = await asked(self._redis.hget(self._keys.held, run_id))
        read = partial(msgspec.json.decode, text, type=Held)
        return None if text is None else readable(self._keys.held, read)

    async def log(self, run_id: str) -> list[KeptLine]:
        """The newest lines that a run's steps have logged, in the order in which they came."""
        found = await asked(self._redis.lrange(self._keys.log(run_id), 0, -1))
        return [msgspec.json.decode(line, type=KeptLine) for line in found]

    async def newest_runs(self, most: int) -> list[tuple[str, RunHeader, dict[str, StepRun]]]:
        """The newest runs, newest first."""
        names = await asked(self._redis.zrange(self._keys.runs, 0, most - 1, desc=True))
        found = await self._hashes(self._keys.run, [name.decode() for name in names])
        return self._runs(found)

    def _runs(
        self, found: dict[str, dict[str, bytes]]
    ) -> list[tuple[str, RunHeader, dict[str, StepRun]]]:
        return [
            (run_id, *run)
            for run_id, fields in found.items()
            if (run := readable(self._keys.run(run_id), partial(read_run, fields)))
        ]

    async def feed(self, after: str = "0", most: int = 1000) -> list[tuple[str, dict[str, str]]]:
        """Entries of the feed after this id, oldest first."""
        entries = await asked(self._redis.xrange(self._keys.feed, f"({after}", "+", most))
        return [
            (name.decode(), {field.decode(): value.decode() for field, value in fields.items()})
            for name, fields in entries
        ]

    async def _members(self, key: str) -> list[str]:
        return sorted(_name(member) for member in await asked(self._redis.smembers(key)))

    async def _hashes(self, key_of: Any, names: Sequence[str]) -> dict[str, dict[str, bytes]]:
        found: dict[str, dict[str, bytes]] = {}
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            pipe = self._redis.pipeline(transaction=False)
            for name in chunk:
                pipe.hgetall(key_of(name))
            for name, fields in zip(chunk, await asked(pipe.execute(False)), strict=True):
                if isinstance(fields, Exception):  # it is no hash
                    unreadable(key_of(name), fields)
                    found[name] = {"": b""}  # nor are there records of one that has this
                elif fields:
                    found[name] = {_name(field): value for field, value in fields.items()}
        return found

    async def _fields(self, key: str, kind: Any) -> dict[str, Any]:
        """A hash of JSON."""
        found = await asked(self._redis.hgetall(key))
        return {
            _name(field): value
            for field, text in found.items()
            if (value := readable(key, partial(msgspec.json.decode, text, type=kind))) is not None
        }

    async def _values(self, key: str, kind: type[T]) -> list[T]:
        return list((await self._fields(key, kind)).values())


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


def _name(word: bytes) -> str:
    """A field or a member; of what is no UTF-8 nothing comes of its name."""
    return word.decode(errors="replace")


def _definition(text: bytes) -> WorkflowDefinition:
    return msgspec.json.decode(text, type=WorkflowDefinition)


def _result(run_id: str, workflow: bytes, status: bytes, output: bytes, error: bytes) -> RunResult:
    return RunResult(
        workflow.decode(),
        run_id,
        RunStatus(status.decode()),
        msgspec.json.decode(output or b"{}"),
        msgspec.json.decode(error, type=RunError) if error else None,
    )
