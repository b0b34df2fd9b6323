"""``Ganger``: the app that workflows, workers and runs belong to."""

import atexit
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Never, Unpack

from ganger_broker.crons import Cron
from ganger_broker.definitions import (
    Concurrency,
    RateLimit,
    StickyOnLoss,
    StickyStrategy,
    action_of,
)
from ganger_broker.errors import InvalidInput, InvalidWorkflow
from ganger_broker.labels import LabelValue
from ganger_broker.quoting import quoted
from ganger_broker.settings import Settings

from .admin import Admin
from .arguments import check_fields
from .clock import wall_clock
from .compute.configs import Compute
from .compute.pools import Pool, Pools
from .events import Events
from .flow_control import make_rate_limit
from .functions import Task, Workflow
from .step import STEP_FIELDS, F, StepOptions, check_name, check_parentheses, declare_step
from .worker import Worker
from .workflow import DEFAULT_SCHEDULE_TIMEOUT, Duration, declaration_of

__all__ = ["TASK_FIELDS", "WORKFLOW_FIELDS", "Ganger"]

_EITHER = ("on_events", "on_crons", "version", "input_validator", "concurrency")
WORKFLOW_FIELDS = (*_EITHER, "schedule_timeout", "sticky", "sticky_on_loss", "compute")
"""What ``workflow`` takes, beside its name."""
TASK_FIELDS = (*_EITHER, *STEP_FIELDS)
"""What ``task`` takes, beside its name."""


class Ganger:
    """Declares workflows, makes workers, and runs workflows through ``admin``.

    ``settings``, or any of them by name (``Ganger(broker_url="memory://")``): what is given
    here goes before the environment (``GANGER_*``), and that before the defaults.

    Raises:
        InvalidSetting: one of the settings is bad; the text names it.
    """

    def __init__(self, settings: Settings | None = None, **flags: Any) -> None:
        self.settings = Settings.load(**flags) if settings is None else settings
        if settings is not None and flags:
            self.override(**flags)
        self.admin = Admin(self)
        self.event = Events(self.admin)
        self.clock = wall_clock
        self._workflows: dict[str, object] = {}
        self._rate_limits: dict[str, RateLimit] = {}
        self._pools = Pools()
        _close_at_exit(self)

    def workflow(
        self,
        name: str | None = None,
        *,
        on_events: Sequence[str] = (),
        on_crons: Sequence[str | Cron] = (),
        schedule_timeout: Duration = DEFAULT_SCHEDULE_TIMEOUT,
        version: str = "",
        sticky: StickyStrategy | str | None = None,
        sticky_on_loss: StickyOnLoss | str = StickyOnLoss.WAIT,
        input_validator: type[Any] | None = None,
        concurrency: Concurrency | Sequence[Concurrency] | None = None,
        compute: Compute | None = None,
        **unknown: Never,
    ) -> Workflow:
        """Make a class a workflow; its steps are its methods decorated with ``step``.

        Or, without a class: what this returns takes functions as its steps, by ``task``.

        - ``name``: by default the class's, in lower case.
        - ``on_events``: keys of events that start a run, with ``*`` for anything (``"image:*"``).
        - ``on_crons``: when it runs by the clock, cron expressions in UTC, or ``Cron(…)``.
        - ``schedule_timeout``: for how long its steps may wait for a worker, where they don't say
          so themselves.
        - ``sticky``: ``SOFT`` or ``HARD``, whether the steps of a run stay on one worker; their
          labels count all the same. ``sticky_on_loss``: with HARD and that worker lost, ``"wait"``
          for it until the schedule time-out, or ``"repin"`` to another eligible one.
        - ``input_validator``: a pydantic model; a trigger whose input does not fit is refused
          before anything runs, and ``context.workflow_input()`` is an object of it.
        - ``concurrency``: how many of its runs go on at once, of all or for each value of a key
          of the input.
        - ``compute``: the machines its steps run on, where they don't say so themselves.

        Raises:
            InvalidWorkflow: something about it is wrong; the text names it.
            TypeError: it takes no such argument.
        """
        check_parentheses(name, "app.workflow")
        place = "" if name is None else f"workflow {quoted(name)}: "
        if name is not None:
            check_name(name, f"workflow {quoted(name)}")
        check_fields(f"{place}app.workflow", unknown, WORKFLOW_FIELDS)
        self._name_pool(compute)
        options = {
            "on_events": on_events,
            "on_crons": on_crons,
            "schedule_timeout": schedule_timeout,
            "version": version,
            "sticky": sticky,
            "sticky_on_loss": sticky_on_loss,
            "input_validator": input_validator,
            "concurrency": concurrency,
            "compute": compute,
            "pools": self._pools,
        }
        return Workflow(self, name, options)

    def task(
        self,
        name: str | None = None,
        *,
        on_events: Sequence[str] = (),
        on_crons: Sequence[str | Cron] = (),
        version: str = "",
        input_validator: type[Any] | None = None,
        concurrency: Concurrency | Sequence[Concurrency] | None = None,
        **options: Any,
    ) -> Callable[[Callable[..., Any]], Task]:
        """Make a function of (input, context) a workflow of one step, with ``run`` and others.

        ``name``: by default the function's, in lower case. ``on_events``, ``on_crons``,
        ``version``, ``input_validator`` and ``concurrency`` are those of ``workflow``, the
        other options those of ``step``.

        Raises:
            InvalidWorkflow: something about it is wrong; the text names it.
            InvalidLabel: a desired label is wrong; the text names it.
            TypeError: it takes no such argument.
        """
        check_parentheses(name, "app.task")
        if "on_failure" in options or "parents" in options:
            place = "task" if name is None else f"task {name!r}"
            raise InvalidWorkflow(
                f"{place}: has one step, and so no parents and none for failures; for "
                "several: app.workflow(name=…)"
            )

        def decorate(function: Callable[..., Any]) -> Task:
            if isinstance(function, Workflow):
                raise InvalidWorkflow(f"task {function.name!r}: is a task or a workflow already")
            given = getattr(function, "__name__", "").lower() if name is None else name
            check_fields(f"task {quoted(given)}: app.task", options, TASK_FIELDS)
            workflow = {
                "on_events": on_events,
                "on_crons": on_crons,
                "version": version,
                "schedule_timeout": DEFAULT_SCHEDULE_TIMEOUT,
                "sticky": None,
                "sticky_on_loss": StickyOnLoss.WAIT,
                "input_validator": input_validator,
                "concurrency": concurrency,
                "pools": self._pools,
            }
            task = Task(self, given, workflow)
            task.task(given, **options)(function)
            task.made()  # what is wrong is said here
            return task

        return decorate

    def step(
        self,
        name: str | None = None,
        *,
        parents: Iterable[str | Callable[..., Any]] = (),
        **options: Unpack[StepOptions],
    ) -> Callable[[F], F]:
        """Make a method of a workflow a step: ``async def``, or plain and run in a thread.

        ``name``: by default the method's, in lower case. ``parents``: the steps, or their names,
        whose outputs it needs. The options, by default:

        - ``timeout`` (60 s): for one attempt. ``schedule_timeout`` (its workflow's): for waiting
          for a worker, anew for each attempt.
        - ``retries`` (0): attempts after the first that failed; before retry n it rests
          ``backoff_factor ** n`` seconds, at most ``backoff_max_seconds`` (300), shortened by a
          part of up to ``jitter`` (0.1), and without a factor not at all.
        - ``desired_worker_labels``: what it desires of its worker's labels.
        - ``sets_labels``: labels that its worker has once it runs, such as ``{"model":
          from_input("model")}``. From its assignment on, preferences of other steps count them.
        - ``rate_limits``: units that each attempt takes of limits declared with ``rate_limit``,
          such as ``{"openai": 1}``.
        - ``compute`` (its workflow's): the machine it runs on, ``Compute(…)``. Steps of equal ones
          share a pool of workers, which ``ganger compute`` deploys, and run on no others.

        Raises:
            InvalidWorkflow: something about it is wrong; the text names it.
            InvalidLabel: a label is wrong; the text names it.
            TypeError: it takes no such argument.
        """
        self._name_pool(options.get("compute"))
        return declare_step(name, parents=parents, **options)

    def on_failure_step(
        self, name: str | None = None, **options: Unpack[StepOptions]
    ) -> Callable[[F], F]:
        """Make a method the step that runs when another has failed for good, before the run
        ends: to tell somebody, or to clean up. ``context.step_run_errors()`` says what failed.

        It is placed like any other step. However it ends, the run has failed; it does not run
        for a run that is cancelled. Options and errors are those of ``step``.
        """
        self._name_pool(options.get("compute"))
        return declare_step(name, on_failure=True, **options)

    def rate_limit(self, key: str, limit: int, per: Duration = "minute") -> None:
        """Declare a rate limit: steps take at most ``limit`` units of it in any ``per``.

        ``per``: ``"second"``, ``"minute"``, ``"hour"``, ``"day"`` or a duration from a second to
        a day. It holds for all workers together; the newest worker's word on it counts.

        Raises:
            InvalidInput: key, limit or per are wrong, or there is one of that key.
        """
        if key in self._rate_limits:
            raise InvalidInput(f"rate limit {key!r} is declared already")
        self._rate_limits[key] = make_rate_limit(key, limit, per)

    @property
    def rate_limits(self) -> dict[str, RateLimit]:
        """The rate limits declared on this app, by key."""
        return dict(self._rate_limits)

    def worker(
        self,
        name: str,
        *,
        labels: Mapping[str, LabelValue] | None = None,
        slots: int = 10,
        worker_id: str | None = None,
        pool: str | Compute | None = None,
        region: str | None = None,
    ) -> Worker:
        """A worker of this app; register workflows with it, then start it.

        ``slots``: how many steps it runs at once. ``worker_id``: by default the name and
        eight random digits; two workers must never share one. ``pool``: it is of this pool, by
        its name or ``Compute``, in this ``region`` of it, and takes the pool's steps only.

        Raises:
            InvalidInput: name, slots, id, pool or region are wrong.
            InvalidLabel: a label is wrong; the text names it.
        """
        return Worker(
            self, name, labels=labels, slots=slots, worker_id=worker_id, pool=pool, region=region
        )

    @property
    def pools(self) -> dict[str, Pool]:
        """The pools that the steps of its workflows run on, by name."""
        actions: dict[str, list[str]] = {}
        for workflow in self._workflows.values():
            definition = declaration_of(workflow).definition
            for step in definition.every_step():
                if step.pool is not None:
                    actions.setdefault(step.pool, []).append(action_of(definition.name, step.name))
        return {
            name: Pool(name, self._pools[name], tuple(takes)) for name, takes in actions.items()
        }

    def _name_pool(self, compute: object) -> None:
        """Pools are numbered in the order in which they are written."""
        if isinstance(compute, Compute):
            self._pools.name_of(compute)

    @property
    def workflows(self) -> dict[str, object]:
        """The workflows declared on this app by their names: classes, or of functions."""
        return dict(self._workflows)

    def add_workflow(self, name: str, workflow: object) -> None:
        """Know this workflow; the decorators do it.

        Raises:
            InvalidWorkflow: there is one of that name.
        """
        if name in self._workflows:
            raise InvalidWorkflow(
                f"workflow {name!r} is declared already, by {self._workflows[name]!r}"
            )
        self._workflows[name] = workflow

    def override(self, **flags: Any) -> None:
        """Change settings by name, for what connects from now on; None changes nothing.

        Raises:
            InvalidSetting: one is bad; the text names it.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        loaded = Settings.load(**given)
        update = {name: getattr(loaded, name) for name in given}
        self.settings = self.settings.model_copy(update=update)

    def close(self) -> None:
        """Close what ``admin`` opened; done at exit by itself. ``admin.aio`` has its own."""
        self.admin.close()


def _close_at_exit(app: Ganger) -> None:
    known = weakref.ref(app)

    def close() -> None:
        if (found := known()) is not None:
            found.close()

    atexit.register(close)
