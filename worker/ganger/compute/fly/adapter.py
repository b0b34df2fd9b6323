"""The adapter: makes, keeps and ends machines until they are those of the plan."""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec

from ganger.compute.adapter import DeployFailed, check_not_scaled
from ganger.compute.container import seconds_to_stop
from ganger.compute.planning import Plan, Replica, changes
from ganger_broker.deployments import Deployment
from ganger_broker.errors import InvalidInput
from ganger_broker.settings import Settings

from .api import PATIENCE, MachinesApi
from .machines import AT_REST, Machine, requests_of, sort_out

__all__ = ["Fly"]

DEFAULT_API = "https://api.machines.dev"
START_PATIENCE = 600.0
"""Seconds for a machine to start: its image may be large, and new to the host."""
LOOK_PATIENCE = 10.0
"""Seconds that Fly is asked for what runs, where a plan is to be shown with it."""
KILL_PATIENCE = 60.0
"""Seconds beyond its grace that a machine may take to stop."""
_UPDATED_AT_ONCE = 4
"""One in so many of a pool's machines, and at least one, is down for an update at a time."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

Request = Mapping[str, Any]


class Fly:
    """Each replica is a machine of one Fly app, in the region of its own.

    The token comes from the environment, ``FLY_API_TOKEN``, so that it is in no command line
    and nothing that is kept of the deployment. The broker's URL is a secret of the Fly app.
    """

    options: ClassVar[Mapping[str, str]] = {
        "app": "the Fly app that the machines belong to; required",
        "image": "the container image, such as acme/captions:7; required",
        "org": "the organisation to make the app in, where there is none",
        "api": f"base URL of the Machines API; default: {DEFAULT_API}",
    }

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, str],
        *,
        environment: Mapping[str, str] = os.environ,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._app = _checked_name("app", options.get("app"))
        self._image = _checked_image(options.get("image"))
        self._org = _checked_name("org", options["org"]) if "org" in options else None
        self._base = _checked_api(options.get("api", DEFAULT_API))
        self._token = environment.get("FLY_API_TOKEN", "").strip()
        self._sleep = sleep

    def render(self, deployment: Deployment, plan: Plan) -> dict[str, str]:
        """The requests that make all of it, as if there were none of it yet."""
        calls = {}
        if self._org is not None:
            body = {"app_name": self._app, "org_slug": self._org}
            calls[f"{self._app}.json"] = self._call_text("/v1/apps", body)
        for request in self._requests(deployment, plan).values():
            path = f"/v1/apps/{self._app}/machines"
            calls[f"{request['name']}.json"] = self._call_text(path, request)
        return calls

    def running(self, deployment: Deployment, plan: Plan) -> list[Replica] | None:
        """The replicas whose machines there are, started or not; None without a token."""
        if not self._token:
            return None
        with self._api(LOOK_PATIENCE) as api:
            if not api.has_app():
                return []
            replicas, _ = sort_out(deployment.name, api.machines(deployment.name))
            return sorted(replicas)

    def apply(self, deployment: Deployment, plan: Plan) -> Iterator[str]:
        """Make it so.

        What a replica has to make room for (its machine in another region, or a copy with its
        worker's id) is drained first; what else is not wanted last, so that the work goes on.
        """
        requests = self._requests(deployment, plan)
        with self._api() as api:
            yield from self._ensure_app(api)
            there, strays = sort_out(deployment.name, api.machines(deployment.name))
            change = changes(plan, there)
            coming = {(replica.pool, replica.number) for replica in change.create}
            moving = [r for r in change.remove if (r.pool, r.number) in coming]
            leaving = [r for r in change.remove if (r.pool, r.number) not in coming]
            kept = {replica: there[replica] for replica in change.keep}
            in_the_way = [*strays, *(there[replica] for replica in moving)]
            yield from self._drain(api, in_the_way)
            for machine in in_the_way:  # until then it has its name
                api.reaches(machine, "destroyed", KILL_PATIENCE)
            yield from self._create(api, deployment, {r: requests[r] for r in change.create})
            yield from self._wake(api, kept, requests)
            yield from self._update(api, kept, requests)
            yield from self._drain(api, [there[replica] for replica in leaving])
            yield f"{self._app}: has the {len(requests)} machines of the plan"

    def remove(self, deployment: Deployment) -> Iterator[str]:
        """Drain and destroy its machines. The Fly app stays, and the secrets in it."""
        with self._api() as api:
            if not api.has_app():
                yield f"{self._app}: there is no such app, and so nothing to remove"
                return
            replicas, strays = sort_out(deployment.name, api.machines(deployment.name))
            yield from self._drain(api, [*replicas.values(), *strays])

    def _api(self, patience: float = PATIENCE) -> MachinesApi:
        return MachinesApi(self._base, self._app, self._token, self._sleep, patience)

    def _requests(self, deployment: Deployment, plan: Plan) -> dict[Replica, dict[str, Any]]:
        check_not_scaled(deployment)
        return requests_of(deployment, plan, self._settings, self._image)

    def _call_text(self, path: str, body: Request) -> str:
        call = {"method": "POST", "url": f"{self._base}{path}", "body": body}
        return msgspec.json.format(msgspec.json.encode(call)).decode() + "\n"

    def _ensure_app(self, api: MachinesApi) -> Iterator[str]:
        """Machines that were made before the secrets are there would never see the broker."""
        if api.has_app():
            return
        if self._org is None:
            raise DeployFailed(
                f"there is no Fly app {self._app!r} that this token may see; make it with "
                f"fly apps create {self._app}, or say --set org=…"
            )
        api.create_app(self._org)
        yield f"{self._app}: app made in {self._org}"
        raise DeployFailed(
            f"the new app {self._app!r} does not know the broker yet: fly secrets set --stage "
            f"--app {self._app} GANGER_BROKER_URL=…; then apply again"
        )

    def _create(
        self, api: MachinesApi, deployment: Deployment, missing: Mapping[Replica, Request]
    ) -> Iterator[str]:
        made = []
        for replica, request in missing.items():

            def find(replica: Replica = replica) -> Machine | None:
                return sort_out(deployment.name, api.machines(deployment.name))[0].get(replica)

            made.append(api.create(request, find))
            yield f"{request['name']}: created in {replica.region}"
        yield from self._await_start(api, made, START_PATIENCE)

    def _wake(
        self,
        api: MachinesApi,
        kept: Mapping[Replica, Machine],
        requests: Mapping[Replica, Request],
    ) -> Iterator[str]:
        """Start what rests and is not updated anyway: somebody stopped it, say."""
        resting = [
            machine
            for replica, machine in kept.items()
            if machine.state in AT_REST and machine.is_as(requests[replica])
        ]
        for machine in resting:
            api.start(machine)
        yield from self._await_start(api, resting, START_PATIENCE)

    def _update(
        self,
        api: MachinesApi,
        kept: Mapping[Replica, Machine],
        requests: Mapping[Replica, Request],
    ) -> Iterator[str]:
        """Update what was asked for otherwise, a part of each pool at a time."""
        for _, pool in groupby(sorted(kept), key=lambda replica: replica.pool):
            replicas = list(pool)
            stale = [each for each in replicas if not kept[each].is_as(requests[each])]
            size = max(1, len(replicas) // _UPDATED_AT_ONCE)
            for first in range(0, len(stale), size):
                updated = []
                for replica in stale[first : first + size]:
                    updated.append(api.update(kept[replica], requests[replica]))
                    yield f"{kept[replica].name}: updated"
                yield from self._await_start(api, updated, self._grace + START_PATIENCE)

    def _await_start(
        self, api: MachinesApi, machines: Iterable[Machine], patience: float
    ) -> Iterator[str]:
        for machine in machines:
            if not api.reaches(machine, "started", patience):
                raise DeployFailed(
                    f"{machine.name}: did not start in {patience:.0f} s; see why with: "
                    f"fly logs --app {self._app} --machine {machine.id}"
                )
            yield f"{machine.name}: started"

    @property
    def _grace(self) -> int:
        """Seconds from SIGTERM to SIGKILL."""
        return seconds_to_stop(self._settings)

    def _drain(self, api: MachinesApi, machines: Iterable[Machine]) -> Iterator[str]:
        """Stop them all, and then destroy each when it has stopped."""
        machines = list(machines)
        running = [machine for machine in machines if machine.state not in AT_REST]
        for machine in running:
            api.stop(machine, self._grace)
            yield f"{machine.name}: draining"
        for machine in machines:
            stopped = machine not in running or self._stops(api, machine)
            api.destroy(machine, force=not stopped)
            yield f"{machine.name}: destroyed{'' if stopped else ', though it had not stopped'}"

    def _stops(self, api: MachinesApi, machine: Machine) -> bool:
        return api.reaches(machine, "stopped", self._grace + KILL_PATIENCE)


def _checked_name(option: str, given: str | None) -> str:
    if given is None or not _NAME.fullmatch(given):
        wrong = "is missing; it" if given is None else repr(given)
        raise InvalidInput(
            f"--set {option}: {wrong} must be 1 to 63 lower case letters, digits and dashes"
        )
    return given


def _checked_image(given: str | None) -> str:
    if given is None or not given or any(map(str.isspace, given)):
        wrong = "is missing; it" if given is None else repr(given)
        raise InvalidInput(f"--set image: {wrong} must be a container image, such as acme/app:7")
    return given


def _checked_api(given: str) -> str:
    url = urlsplit(given)
    plain = not (url.username or url.password or url.query or url.fragment)
    if url.scheme not in ("http", "https") or not url.hostname or not plain:
        raise InvalidInput(f"--set api: must be a URL such as {DEFAULT_API}")
    return given.rstrip("/")
