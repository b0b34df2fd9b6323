"""The engine places every step where the oracle does, whatever happens in between."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ganger_broker.labels import Requirement, WorkerLabelComparator, parse_desired
from ganger_dispatcher.placement import Placement
from ganger_dispatcher.placement.fleet import NOT_FREE

from .oracle import Oracle, OracleWorker, Pending

ACTIONS = ["w:a", "w:b"]
KEYS = ["model", "memory", "region"]
TEXTS = ["", "a", "A", "b", "ba", "z", "é", "512", "\U0001f680", "\uffff"]
NUMBERS = [0, -1, 1, 1.0, 1.5, 512, 512.0, 2**53, -(2**53), 1e308, 5e-324]

values = st.sampled_from([*TEXTS, *NUMBERS])
labels = st.dictionaries(st.sampled_from(KEYS), values, max_size=3)


@st.composite
def wishes(draw: st.DrawFn) -> dict:
    comparator = draw(st.sampled_from(list(WorkerLabelComparator)))
    wish: dict = {"comparator": comparator.value}
    if comparator.takes_list:
        wish["value"] = draw(st.lists(values, min_size=1, max_size=3))
    elif not comparator.takes_nothing:
        wish["value"] = draw(values)
    if draw(st.booleans()):
        wish["required"] = draw(st.booleans())
    if draw(st.booleans()):
        wish["weight"] = draw(st.sampled_from([1, 2, 3, 100, 1_000_000]))
    return wish


@st.composite
def requirements(draw: st.DrawFn) -> Requirement:
    wish = wishes() | st.lists(wishes(), min_size=1, max_size=2)
    desired = parse_desired(draw(st.dictionaries(st.sampled_from(KEYS), wish, max_size=3)))
    conditions = [condition for group in desired.values() for condition in group]
    return Requirement.of(draw(st.sampled_from(ACTIONS)), conditions)


class Both:
    """Engine and oracle side by side, told the same."""

    def __init__(self) -> None:
        self.engine = Placement()
        self.oracle = Oracle()
        self.held: list[str] = []
        self.names = 0

    def join(self, labels: dict, actions: list[str], slots: int, used: int) -> None:
        self.names += 1
        name = f"w{self.names}"
        worker = OracleWorker(
            name, dict(labels), frozenset(actions), slots, used, True, next(self.oracle.arrivals)
        )
        self.oracle.workers[name] = worker
        self.engine.join(name, labels, actions, slots, used)
        self.held += [name] * used
        self.match(name)

    def leave(self, name: str) -> None:
        del self.oracle.workers[name]
        self.engine.leave(name)
        self.held = [holder for holder in self.held if holder != name]

    def change(self, name: str, upsert: dict, delete: list[str]) -> None:
        worker = self.oracle.workers[name]
        for key in delete:
            worker.labels.pop(key, None)
        worker.labels.update(upsert)
        self.engine.change_labels(name, upsert, delete)
        self.match(name)

    def set_open(self, name: str, is_open: bool) -> None:
        worker = self.oracle.workers[name]
        worker.is_open, worker.is_paused = is_open, False
        self.engine.set_open(name, is_open)
        self.match(name)

    def pause(self, name: str) -> None:
        worker = self.oracle.workers[name]
        worker.is_open, worker.is_paused = False, True
        self.engine.pause(name)
        self.match(name)

    def take(self, name: str) -> None:
        worker = self.oracle.workers[name]
        worker.used += 1
        worker.idle_since = next(self.oracle.clock)
        self.engine.take(name)
        self.held.append(name)

    def release(self, which: int) -> None:
        if self.held:
            name = self.held.pop(which % len(self.held))
            self.oracle.workers[name].used -= 1
            self.engine.release(name)
            self.match(name)

    def place(
        self, requirement: Requirement, priority: int, since: int, prefer: str | None = None
    ) -> None:
        row = self.engine.scan(requirement)
        found = None if row is None else self.engine.fleet.ids[row]
        assert found == self.oracle.choose(requirement)
        expected = self.oracle.choose(requirement, prefer)
        assert self.engine.choose(requirement, prefer) == expected
        if expected is not None:
            self.take(expected)
            return
        sequence = next(self.oracle.sequence)
        step_run = f"r/{sequence}"
        self.oracle.pending[step_run] = Pending(step_run, requirement, priority, since, sequence)
        self.engine.backlog.add(step_run, requirement, since - priority * 10**9)

    def match(self, name: str) -> None:
        while True:
            expected = self.oracle.next_for(name)
            turn = self.engine.next_for(name)
            assert (turn.step_run if turn else None) == expected
            if expected is None:
                return
            del self.oracle.pending[expected]
            self.engine.backlog.remove(expected)
            self.take(name)

    def drop_pending(self, which: int) -> None:
        if self.oracle.pending:
            step_run = sorted(self.oracle.pending)[which % len(self.oracle.pending)]
            del self.oracle.pending[step_run]
            self.engine.backlog.remove(step_run)

    def toggle_index(self, requirement: Requirement) -> None:
        index = self.engine.index
        if requirement in index:
            index.deactivate([requirement])
        else:
            index.activate(requirement)

    def check(self, wanted: list[Requirement]) -> None:
        fleet = self.engine.fleet
        for worker in self.oracle.workers.values():
            row = fleet.row_of[worker.id]
            assert (fleet.used[row], fleet.slots[row]) == (worker.used, worker.slots)
            assert fleet.labels[row] == worker.labels
            assert (fleet.key[row] == NOT_FREE) == (
                not worker.is_open or worker.used >= worker.slots
            )
        for requirement in wanted:
            if requirement not in self.engine.index:
                self.engine.index.activate(requirement)
            row = self.engine.index.best(requirement)
            found = None if row is None else fleet.ids[row]
            assert found == self.oracle.choose(requirement)
        self.engine.index._compact()
        for requirement in wanted:
            row = self.engine.index.best(requirement)
            found = None if row is None else fleet.ids[row]
            assert found == self.oracle.choose(requirement)


@given(data=st.data())
def test_engine_places_where_the_oracle_does(data: st.DataObject) -> None:
    both = Both()
    wanted = data.draw(st.lists(requirements(), min_size=1, max_size=4))
    slots = st.sampled_from([1, 1, 2, 3, 4096])
    for _ in range(data.draw(st.integers(1, 5))):
        both.join(
            data.draw(labels),
            data.draw(st.lists(st.sampled_from(ACTIONS), min_size=1)),
            data.draw(slots),
            0,
        )
    steps = st.sampled_from(
        ["place"] * 5
        + ["stick"] * 2
        + ["release"] * 3
        + ["change"] * 3
        + ["join", "leave", "close", "open", "pause", "drop", "index", "forget"]
    )
    for _ in range(data.draw(st.integers(1, 25))):
        step = data.draw(steps)
        names = sorted(both.oracle.workers)
        if step in ("place", "stick"):
            requirement, prefer = data.draw(st.sampled_from(wanted)), None
            if step == "stick":
                who = data.draw(st.sampled_from([*names, "gone"]))
                if data.draw(st.booleans()):
                    requirement = msgspec.structs.replace(requirement, worker=who)
                else:
                    prefer = who
            both.place(
                requirement, data.draw(st.integers(1, 3)), data.draw(st.integers(0, 2)), prefer
            )
        elif step == "release":
            both.release(data.draw(st.integers(0, 9)))
        elif step == "join":
            most = data.draw(slots)
            both.join(
                data.draw(labels),
                data.draw(st.lists(st.sampled_from(ACTIONS))),
                most,
                data.draw(st.integers(0, min(most, 3))),
            )
        elif step == "drop":
            both.drop_pending(data.draw(st.integers(0, 9)))
        elif step == "index":
            both.toggle_index(data.draw(st.sampled_from(wanted)))
        elif step == "forget":
            both.engine.forget_unused()
        elif names:
            name = data.draw(st.sampled_from(names))
            if step == "change":
                both.change(name, data.draw(labels), data.draw(st.lists(st.sampled_from(KEYS))))
            elif step == "leave":
                both.leave(name)
            elif step == "pause":
                both.pause(name)
            else:
                both.set_open(name, step == "open")
    both.check(wanted)
