"""The port to what runs replicas: this machine, Kubernetes, Compose, Fly, or one of your own."""

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import ClassVar, Protocol, runtime_checkable

from ganger_broker.deployments import Deployment
from ganger_broker.errors import GangerError, InvalidInput, MissingExtra
from ganger_broker.settings import Settings

from .planning import Plan, Replica

__all__ = [
    "GROUP",
    "DeployAdapter",
    "DeployFailed",
    "Overtaken",
    "Prepares",
    "adapters",
    "check_leaving",
    "check_not_scaled",
    "make_adapter",
]

GROUP = "ganger.deploy_adapters"
"""Of entry points: the name is what ``--on`` says, the value a class as below."""


class DeployFailed(GangerError):
    """What runs the replicas did not do what was asked; the text says what it answered."""


class Overtaken(DeployFailed):
    """Somebody else wants the opposite of it since; the text says what."""


def check_leaving(deployment: Deployment | None) -> None:
    """Check that what is being taken down, as it is kept now, is still to go.

    Raises:
        Overtaken: it is not.
    """
    if deployment is not None and not deployment.leaving:
        raise Overtaken(f"{deployment.name} was put up again meanwhile, by somebody else; it stays")


class DeployAdapter(Protocol):
    """A way to run replicas: each is ``ganger worker TARGET --pool POOL --region REGION``.

    Made with the settings of the command and the options that were given with ``--set``;
    raises ``InvalidInput`` where one of them is wrong or missing. All methods may raise
    ``DeployFailed``.
    """

    options: ClassVar[Mapping[str, str]]
    """What ``--set`` may name, and what each is, for people."""

    def __init__(self, settings: Settings, options: Mapping[str, str]) -> None: ...

    def render(self, deployment: Deployment, plan: Plan) -> dict[str, str]:
        """What ``apply`` would write or send, as texts by name; nothing is changed."""

    def running(self, deployment: Deployment, plan: Plan) -> list[Replica] | None:
        """The replicas that there are; None where it cannot tell."""

    def apply(self, deployment: Deployment, plan: Plan) -> Iterator[str]:
        """Make it so, and yield lines that say what is being done.

        Where it raises before its first line, nothing was done: the deployment is then kept as it
        was before, or not at all.
        """

    def remove(self, deployment: Deployment) -> Iterator[str]:
        """Drain and end all of the deployment, and yield lines that say what is being done."""


@runtime_checkable
class Prepares(Protocol):
    """An adapter with something to make ready before what it is to deploy is kept."""

    def prepare(self, deployment: Deployment) -> None:
        """Make it ready; raises ``InvalidInput`` or ``DeployFailed`` where that cannot be, and
        then nothing is kept."""


def check_not_scaled(deployment: Deployment) -> None:
    """Refuse a deployment that is to follow its load, where nothing does that.

    Raises:
        InvalidInput: it is.
    """
    if deployment.autoscale is not None:
        raise InvalidInput(
            f"--autoscale: {deployment.on} scales nothing by itself; local and kubernetes do"
        )


def adapters() -> dict[str, EntryPoint]:
    """The adapters that are installed, by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def make_adapter(name: str, settings: Settings, options: Mapping[str, str]) -> DeployAdapter:
    """The adapter of this name.

    Raises:
        InvalidInput: there is none, or one of the options is wrong.
        MissingExtra: something it needs is not installed.
    """
    known = adapters()
    if name not in known:
        raise InvalidInput(f"--on: there is no {name!r}; there are {', '.join(sorted(known))}")
    try:
        kind: Callable[[Settings, Mapping[str, str]], DeployAdapter] = known[name].load()
    except ImportError as exc:
        raise MissingExtra(f"--on {name} needs: pip install 'ganger[compute]' ({exc})") from exc
    takes: Mapping[str, str] = getattr(kind, "options", {})
    for option in options:
        if option not in takes:
            said = "; ".join(f"{key}: {what}" for key, what in takes.items()) or "none"
            raise InvalidInput(f"--set: {name} takes no {option!r}, but {said}")
    return kind(settings, options)
