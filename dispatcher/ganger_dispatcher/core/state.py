"""What the core remembers between two facts."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from ganger_broker.labels import Requirement
from ganger_broker.messages import RunResult
from ganger_dispatcher.placement import Placement

from .effects import Effect
from .records import Held, Run, Schedule, Worker
from .scaling import Scaling
from .versions import Versions
from .workflow import Workflow

if TYPE_CHECKING:
    from .groups import Group, GroupId, Line, LineId
    from .pools import Pool
    from .rates import Rate

__all__ = ["Policy", "State", "Timer", "TimerFailed", "to_blame"]

_PULSES = 10
"""Wake-ups within a worker's time-out, at least: a stall of the dispatcher shows as one late
wake-up, well before workers that it could not hear are taken for silent."""


class Policy(NamedTuple):
    """Durations the core goes by, ms, and bounds."""

    worker_timeout: int = 10_000
    """Of silence, until a worker is lost."""
    pickup_deadline: int = 10_000
    """Until an attempt that its worker does not mention was not picked up."""
    timeout_grace: int = 5_000
    """After a step's time-out, for its worker to say so; then the worker is taken for deaf."""
    hold: int = 60_000
    """For a trigger of an unregistered workflow."""
    priority_ageing: int = 60_000
    """Of waiting that are worth one priority."""
    most_losses: int = 5
    """Lost workers a step run survives; at one more it has failed."""
    scaling: Scaling = Scaling()
    """How many replicas pools want."""


class Timer(NamedTuple):
    """A wake-up: at ``due`` ms, look at ``name`` again."""

    due: int
    kind: str
    name: str


class TimerFailed(Exception):
    """The core failed on a wake-up; its state may be half changed."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(kind, name)
        self.kind = kind
        self.name = name


@contextmanager
def to_blame(kind: str, name: str) -> Iterator[None]:
    """A defect that shows at a wake-up is that one's, and costs no other.

    Raises:
        TimerFailed: whatever is raised in it.
    """
    try:
        yield
    except Exception as exc:
        raise TimerFailed(kind, name) from exc


class State:
    """Runs that have not ended, live workers, and what is waited for.

    ``workflows``: the definitions that new runs begin with. ``came``: of each workflow all that
    were ever registered, by digest, in the order in which they came. ``unheard``: workers that have
    not spoken since nobody could be heard; while there are any, ``deaf_since`` is from when on
    nobody could, and ``heard_anew`` until when nobody could at last, ms. ``stand_still``: wake-ups
    that were due since; ``unread`` such as were due after the newest word that has been read.
    ``read_to``: what the workers had said by then, ms, is handled, None: all that they have said;
    ``to_read`` up to when it has to be before it means something that a worker does not mention an
    attempt.
    ``now`` is the time of the fact being handled, ms; effects gather in ``effects``;
    ``ended`` has the runs that ended in this batch, which nobody else knows of yet;
    ``children`` those that live runs have spawned, each with the step that did, ``orphans`` those
    to cancel, as the run that spawned them did not succeed; ``room`` workers that may have slots
    for what waits, or for what the fact being handled makes pending; ``patient`` pending steps that
    wait for a worker they prefer, and what they require meanwhile; ``look_again`` whether for some
    of them there may be nobody any more; ``rates`` the rate limits by key, ``limited`` pending
    steps that wait for one, with its key and their number there; ``groups`` the runs that
    concurrency limits, ``lines`` those of them that wait, ``vacated`` groups in which there is room
    again; ``sequence`` numbers what waits; ``schedules`` runs by the clock, by id; ``pools`` what
    pools of workers have to do, by label, ``pools_watched`` whether they are looked at.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.now = 0
        self.effects: list[Effect] = []
        self.placement = Placement()
        self.workflows: dict[str, Workflow] = {}
        self.came: dict[str, dict[str, Workflow]] = {}
        self.workers: dict[str, Worker] = {}
        self.versions = Versions()
        self.unheard: set[str] = set()
        self.deaf_since: int | None = None
        self.heard_anew = 0
        self.stand_still: list[Timer] = []
        self.unread: list[Timer] = []
        self.read_to: int | None = None
        self.to_read: int | None = None
        self.runs: dict[str, Run] = {}
        self.held: dict[str, Held] = {}
        self.ended: dict[str, RunResult] = {}
        self.children: dict[str, dict[str, str]] = {}
        self.orphans: list[str] = []
        self.room: dict[str, None] = {}
        self.patient: dict[str, Requirement] = {}
        self.look_again = False
        self.rates: dict[str, Rate] = {}
        self.limited: dict[str, tuple[str, int]] = {}
        self.groups: dict[GroupId, Group] = {}
        self.lines: dict[LineId, Line] = {}
        self.vacated: dict[GroupId, None] = {}
        self.sequence = 0
        self.schedules: dict[str, Schedule] = {}
        self.pools: dict[str, Pool] = {}
        self.pools_watched = False
        self._timers: list[Timer] = []

    def emit(self, *effects: Effect) -> None:
        """Want these done."""
        self.effects.extend(effects)

    def turn(self, priority: int, since: int) -> int:
        """The order of what waits, lowest first: a head start for priority, which age makes up."""
        return since - priority * self.policy.priority_ageing

    def wake(self, due: int, kind: str, name: str) -> None:
        """Look at ``name`` again at ``due``."""
        heappush(self._timers, Timer(due, kind, name))

    @property
    def waiting_now(self) -> int:
        """The time for what waits for workers, ms: it stands still while they are not heard."""
        return self.now if self.deaf_since is None else self.deaf_since

    @property
    def wake_at(self) -> int | None:
        """When the next wake-up is due, ms; None where none is wanted.

        While there are workers that is soon: only who is woken often notices that it slept.
        """
        due = self._timers[0].due if self._timers else None
        if not self.workers:
            return due
        pulse = self.now + self.policy.worker_timeout // _PULSES
        return pulse if due is None else min(due, pulse)

    def due(self) -> Iterable[Timer]:
        """Wake-ups that are due now; each is given once."""
        while self._timers and self._timers[0].due <= self.now:
            yield heappop(self._timers)
