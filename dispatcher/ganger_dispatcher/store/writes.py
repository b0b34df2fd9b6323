"""Effects as Redis commands, those of a batch combined: of two values for one field the last."""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import msgspec

from ganger_broker.codec import to_json
from ganger_broker.fields import MAX_LOG_LINES
from ganger_broker.keys import Keys
from ganger_dispatcher.core import effects as do
from ganger_dispatcher.core.digest import digest
from ganger_dispatcher.core.records import RunHeader, Worker

__all__ = ["Writes", "run_fields", "worker_fields"]

Command = tuple[str, ...]

_encode = msgspec.json.Encoder().encode


def run_fields(
    header: RunHeader, names: Iterable[str] = RunHeader.__struct_fields__
) -> dict[str, str]:
    """A run's header, or some of it, as fields of its hash: text as it is, all else as JSON."""
    return {name: _text(value) for name in names if (value := getattr(header, name)) is not None}


_MOST_GROUPS = 1000
"""Fields or members of one command: Lua's unpack takes about 8,000 words."""

_ENDED = ("status", "finished_at", "output", "error")
_NOT_IN_HASH = {"id", "labels", "attempts"}


def worker_fields(worker: Worker) -> dict[str, Any]:
    """A worker as fields of its hash; labels and attempts have keys of their own."""
    fields: dict[str, Any] = {
        field: value if isinstance(value, str) else to_json(value)
        for field, value in msgspec.structs.asdict(worker).items()
        if field not in _NOT_IN_HASH and value is not None
    }
    fields["used"] = worker.used
    return fields


class Writes:
    """The writes of one commit, in the making."""

    def __init__(self, keys: Keys, feed_length: int) -> None:
        self._keys = keys
        self._feed_length = feed_length
        self._deleted: dict[str, None] = {}
        self._fields: dict[str, dict[str, Any]] = {}
        self._dropped: dict[str, dict[str, None]] = {}
        self._scores: dict[str, dict[str, int | None]] = {}
        self._members: dict[str, dict[str, bool]] = {}
        self._counts: dict[str, int] = {}
        self._logs: dict[str, list[str]] = {}
        self._feed: list[Command] = []

    def add(self, effects: Iterable[do.Effect]) -> None:
        """What these effects store; those that send are passed over."""
        for effect in effects:
            write = _WRITERS.get(type(effect))
            if write is not None:
                write(self, effect)

    def commands(self) -> list[Command]:
        """The commands, in an order in which they mean what was wanted."""
        commands: list[Command] = [("DEL", key) for key in self._deleted]
        for key, dropped in self._dropped.items():
            commands += _commands("HDEL", key, ((field,) for field in dropped))
        for key, fields in self._fields.items():
            pairs = [(field, _text(value)) for field, value in fields.items()]
            commands += _commands("HSET", key, pairs)
        for key, scores in self._scores.items():
            scored = {m: None if score is None else (str(score), m) for m, score in scores.items()}
            commands += _both("ZADD", "ZREM", key, scored)
        for key, members in self._members.items():
            there = {m: (m,) if is_there else None for m, is_there in members.items()}
            commands += _both("SADD", "SREM", key, there)
        commands += [
            ("HINCRBY", self._keys.stats, name, str(by)) for name, by in self._counts.items()
        ]
        for key, lines in self._logs.items():
            commands.append(("RPUSH", key, *lines[-MAX_LOG_LINES:]))
            commands.append(("LTRIM", key, str(-MAX_LOG_LINES), "-1"))
        return commands + self._feed

    # ── building blocks: a later write of the same thing replaces an earlier one ──────

    def set(self, key: str, fields: dict[str, Any]) -> None:
        """Set fields of a hash."""
        self._fields.setdefault(key, {}).update(fields)
        dropped = self._dropped.get(key)
        if dropped:
            for field in fields:
                dropped.pop(field, None)
            if not dropped:
                del self._dropped[key]

    def drop(self, key: str, fields: Iterable[str]) -> None:
        """Delete fields of a hash."""
        held = self._fields.get(key)
        for field in fields:
            if held:
                held.pop(field, None)
            self._dropped.setdefault(key, {})[field] = None
        if held is not None and not held:
            del self._fields[key]

    def delete(self, key: str) -> None:
        """Delete a key, and whatever was to be written to it before."""
        for pending in (self._fields, self._dropped, self._scores, self._members):
            pending.pop(key, None)
        self._deleted[key] = None

    def score(self, key: str, member: str, score: int | None) -> None:
        """Set a member's score in a zset; None removes it."""
        self._scores.setdefault(key, {})[member] = score

    def member(self, key: str, member: str, *, there: bool) -> None:
        """Put a member in a set, or take it out."""
        self._members.setdefault(key, {})[member] = there

    # ── effects ───────────────────────────────────────────────────────────────────────

    def _store_run(self, effect: do.StoreRun) -> None:
        self.set(self._keys.run(effect.run_id), run_fields(effect.header))
        self.score(self._keys.runs, effect.run_id, effect.header.created_at)
        self.member(self._keys.active, effect.run_id, there=True)

    def _end_run(self, effect: do.EndRun) -> None:
        self.set(self._keys.run(effect.run_id), run_fields(effect.header, _ENDED))
        self.member(self._keys.active, effect.run_id, there=False)
        self.score(self._keys.finished, effect.run_id, effect.header.finished_at)

    def _unpin(self, effect: do.Unpin) -> None:
        self.drop(self._keys.run(effect.run_id), ["pinned"])

    def _unqueue(self, effect: do.Unqueue) -> None:
        self.drop(self._keys.run(effect.run_id), ["queued"])

    def _store_step(self, effect: do.StoreStep) -> None:
        self.set(self._keys.run(effect.run_id), {f"step:{effect.step}": effect.value})

    def _append_log(self, effect: do.AppendLog) -> None:
        self.set(self._keys.run(effect.run_id), {"logged": effect.logged})
        self._logs.setdefault(self._keys.log(effect.run_id), []).extend(map(to_json, effect.lines))

    def _add_pending(self, effect: do.AddPending) -> None:
        self.score(self._keys.pending, effect.step_run, effect.deadline)

    def _drop_pending(self, effect: do.DropPending) -> None:
        self.score(self._keys.pending, effect.step_run, None)

    def _store_worker(self, effect: do.StoreWorker) -> None:
        worker = effect.worker
        self.set(self._keys.worker(worker.id), worker_fields(worker))
        self.score(self._keys.workers, worker.id, worker.heartbeat_at)
        self.delete(self._keys.labels(worker.id))
        if worker.labels:
            self.set(self._keys.labels(worker.id), _json_values(worker.labels))

    def _store_load(self, effect: do.StoreLoad) -> None:
        self.set(
            self._keys.worker(effect.worker),
            {"used": effect.used, "state": effect.state, "given_at": effect.given_at},
        )

    def _store_waits(self, effect: do.StoreWaits) -> None:
        self.set(self._keys.worker(effect.worker), {"waits": to_json(effect.waits)})

    def _store_coming(self, effect: do.StoreComing) -> None:
        self.set(self._keys.worker(effect.worker), {"coming": to_json(effect.coming)})

    def _store_schedule(self, effect: do.StoreSchedule) -> None:
        self.set(self._keys.schedules, {effect.schedule.schedule_id: effect.schedule})

    def _drop_schedule(self, effect: do.DropSchedule) -> None:
        self.drop(self._keys.schedules, [effect.schedule_id])

    def _store_rate(self, effect: do.StoreRate) -> None:
        self.set(self._keys.rates, {effect.use.limit.key: effect.use})

    def _store_pool(self, effect: do.StorePool) -> None:
        self.set(self._keys.pools, {effect.pool: effect.load})

    def _drop_pool(self, effect: do.DropPool) -> None:
        self.drop(self._keys.pools, [effect.pool])

    def _store_labels(self, effect: do.StoreLabels) -> None:
        key = self._keys.labels(effect.worker)
        self.drop(key, effect.delete)
        if effect.upsert:
            self.set(key, _json_values(effect.upsert))
        self.set(self._keys.worker(effect.worker), {"label_seq": effect.seq})

    def _beat(self, effect: do.Beat) -> None:
        self.score(self._keys.workers, effect.worker, effect.at)
        fields: dict[str, Any] = {"heartbeat_at": effect.at}
        if effect.memory_mb is not None:
            fields["memory_mb"] = effect.memory_mb
        if effect.cpus is not None:
            fields["cpus"] = effect.cpus
        self.set(self._keys.worker(effect.worker), fields)

    def _drop_worker(self, effect: do.DropWorker) -> None:
        keys = self._keys
        for key in (keys.worker, keys.labels, keys.attempts):
            self.delete(key(effect.worker))
        self.score(keys.workers, effect.worker, None)

    def _take_attempt(self, effect: do.TakeAttempt) -> None:
        self.member(self._keys.attempts(effect.worker), effect.attempt, there=True)

    def _release_attempt(self, effect: do.ReleaseAttempt) -> None:
        self.member(self._keys.attempts(effect.worker), effect.attempt, there=False)

    def _store_workflow(self, effect: do.StoreWorkflow) -> None:
        definition = effect.definition
        text = to_json(definition)
        self.member(self._keys.workflows, definition.name, there=True)
        self.set(
            self._keys.workflow(definition.name),
            {
                "version": definition.version,
                "definition": text,
                "came": to_json(effect.came),
                f"definition:{digest(definition)}": text,
            },
        )

    def _hold(self, effect: do.Hold) -> None:
        self.set(self._keys.held, {effect.held.run_id: effect.held})

    def _unhold(self, effect: do.Unhold) -> None:
        self.drop(self._keys.held, [effect.run_id])

    def _count(self, effect: do.Count) -> None:
        self._counts[effect.name] = self._counts.get(effect.name, 0) + effect.by

    def _note(self, effect: do.Note) -> None:
        if self._feed_length:
            words: list[str] = ["XADD", self._keys.feed, "MAXLEN", "~", str(self._feed_length), "*"]
            words += ("kind", effect.kind)
            for field, value in effect.fields.items():
                words += (field, _text(value))
            self._feed.append(tuple(words))


def _both(
    add: str, remove: str, key: str, members: Mapping[str, tuple[str, ...] | None]
) -> list[Command]:
    adding = (words for words in members.values() if words is not None)
    removing = ((member,) for member, words in members.items() if words is None)
    return [*_commands(add, key, adding), *_commands(remove, key, removing)]


def _commands(name: str, key: str, groups: Iterable[tuple[str, ...]]) -> list[Command]:
    """The command with all groups of words, in as many as it takes (see ``_MOST_GROUPS``)."""
    every = list(groups)
    return [
        (name, key, *chain.from_iterable(every[start : start + _MOST_GROUPS]))
        for start in range(0, len(every), _MOST_GROUPS)
    ]


def _json_values(labels: dict[str, Any]) -> dict[str, Any]:
    return {key: to_json(value) for key, value in labels.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _encode(value).decode()


_WRITERS: dict[type, Callable[[Writes, Any], None]] = {
    do.StoreRun: Writes._store_run,
    do.EndRun: Writes._end_run,
    do.Unqueue: Writes._unqueue,
    do.StoreStep: Writes._store_step,
    do.AppendLog: Writes._append_log,
    do.AddPending: Writes._add_pending,
    do.DropPending: Writes._drop_pending,
    do.StoreWorker: Writes._store_worker,
    do.StoreLoad: Writes._store_load,
    do.StoreWaits: Writes._store_waits,
    do.StoreComing: Writes._store_coming,
    do.StoreLabels: Writes._store_labels,
    do.StoreRate: Writes._store_rate,
    do.StorePool: Writes._store_pool,
    do.DropPool: Writes._drop_pool,
    do.StoreSchedule: Writes._store_schedule,
    do.DropSchedule: Writes._drop_schedule,
    do.Beat: Writes._beat,
    do.DropWorker: Writes._drop_worker,
    do.TakeAttempt: Writes._take_attempt,
    do.ReleaseAttempt: Writes._release_attempt,
    do.StoreWorkflow: Writes._store_workflow,
    do.Hold: Writes._hold,
    do.Unhold: Writes._unhold,
    do.Unpin: Writes._unpin,
    do.Count: Writes._count,
    do.Note: Writes._note,
}
