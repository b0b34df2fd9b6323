"""Fly's Machines API as its documentation says it is, on 127.0.0.1, without machines.

What it refuses, it refuses with Fly's statuses and words; ``fail`` has it fail as Fly does.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

__all__ = ["TOKEN", "Answer", "FakeFly", "fake_fly"]

TOKEN = "FlyV1 fm2_of-the-tests"  # noqa: S105 - of nobody
ORG = "acme"
IMAGES = re.compile(r"acme/[a-z]+:[0-9]+")
REGIONS = {"ams", "fra", "iad", "nrt"}
CPUS = {"shared": {1, 2, 4, 6, 8}, "performance": {1, 2, 4, 6, 8, 10, 12, 14, 16}}


@dataclass(frozen=True)
class Answer:
    """What is answered in place of the truth. ``done``: after it was done nevertheless.
    ``status`` 0: the connection is dropped."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    done: bool = False


class Refused(Exception):
    def __init__(self, code: int, /, **body: Any) -> None:
        self.answer = Answer(code, body)


class FakeFly:
    """``apps`` are the machines of each app, by their ids; ``calls`` what was asked, in order."""

    def __init__(self) -> None:
        self.url = ""
        self.apps: dict[str, dict[str, dict[str, Any]]] = {"captions": {}}
        self.taken_apps = {"everybodys"}
        self.calls: list[str] = []
        self.bodies: list[Any] = []
        self.leased: set[str] = set()
        self.deaf: set[str] = set()
        self.slow_starters: set[str] = set()
        self.most_at_once_down = 0
        self.authorizations: set[str | None] = set()
        self._failures: list[tuple[re.Pattern[str], list[Answer]]] = []
        self._made = 0
        self._lock = threading.Lock()

    def fail(self, pattern: str, *answers: Answer) -> None:
        """Answer the next calls that fit so, one after the other."""
        self._failures.append((re.compile(pattern), list(answers)))

    @property
    def machines(self) -> dict[str, dict[str, Any]]:
        """The machines there are, by name."""
        every = [machine for app in self.apps.values() for machine in app.values()]
        return {each["name"]: each for each in every if each["state"] != "destroying"}

    def asked(self, pattern: str) -> list[str]:
        """The calls that fit."""
        return [call for call in self.calls if re.search(pattern, call)]

    def handle(self, method: str, url: str, token: str | None, body: Any) -> Answer:
        with self._lock:
            call = f"{method} {url}"
            self.calls.append(call)
            self.bodies.append(body)
            self.authorizations.add(token)
            failure = self._failure(call)
            if failure is not None and not failure.done:
                return failure
            try:
                if token != f"Bearer {TOKEN}":
                    raise Refused(401, error="unauthorized")
                answer = self._done(method, url, body)
            except Refused as refused:
                answer = refused.answer
            return answer if failure is None else failure

    def _failure(self, call: str) -> Answer | None:
        for pattern, answers in self._failures:
            if answers and pattern.search(call):
                return answers.pop(0)
        return None

    def _done(self, method: str, url: str, body: Any) -> Answer:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        for kind, path, action in ROUTES:
            found = re.fullmatch(path, parts.path)
            if kind == method and found:
                if "app" in found.groupdict() and found["app"] not in self.apps:
                    raise Refused(404, error=f"app not found: {found['app']}")
                return action(self, query=query, body=body, **found.groupdict())
        raise Refused(404, error="404 page not found")

    # ── apps ──────────────────────────────────────────────────────────────────────────

    def get_app(self, app: str, **_: Any) -> Answer:
        return Answer(200, {"id": app, "name": app, "organization": {"slug": ORG}})

    def create_app(self, body: Any, **_: Any) -> Answer:
        name = body["app_name"]
        if body["org_slug"] != ORG:
            raise Refused(404, error="organization not found")
        if name in self.apps or name in self.taken_apps:
            error = "Validation failed: Name has already been taken"
            raise Refused(422, error=error, status="name_taken")
        self.apps[name] = {}
        return Answer(201, {"id": name, "created_at": 1708631799000})

    # ── machines ──────────────────────────────────────────────────────────────────────

    def list_machines(self, app: str, query: dict[str, str], **_: Any) -> Answer:
        wanted = {
            key.removeprefix("metadata."): value
            for key, value in query.items()
            if key.startswith("metadata.")
        }
        listed = [
            machine
            for machine in self.apps[app].values()
            if wanted.items() <= machine["config"]["metadata"].items()
        ]
        for machine in listed:
            if machine["state"] == "destroying":  # it is gone by the next time
                del self.apps[app][machine["id"]]
        return Answer(200, listed)

    def create_machine(self, app: str, body: Any, **_: Any) -> Answer:
        self._check_config(body["config"])
        if body["region"] not in REGIONS:
            raise Refused(400, error=f"invalid_argument: region {body['region']} not found")
        for machine in self.apps[app].values():
            if machine["name"] == body["name"]:
                error = "already_exists: unique machine name violation, machine ID "
                error += f'{machine["id"]} already exists with name "{body["name"]}"'
                raise Refused(409, error=error)
        self._made += 1
        made = {
            "id": f"{self._made:014x}",
            "name": body["name"],
            "region": body["region"],
            "state": "created",
            "instance_id": f"01V{self._made}",
            "config": self._stored(body["config"]),
            "image_ref": {"repository": body["config"]["image"]},
            "events": [],
        }
        self.apps[app][made["id"]] = made
        return Answer(200, made)

    def update_machine(self, app: str, id: str, body: Any, **_: Any) -> Answer:
        machine = self._machine(app, id)
        self._check_lease(id)
        self._check_config(body["config"])
        if set(body) - {"config"}:
            raise Refused(400, error="region and name are immutable")
        self._made += 1
        version = {"state": "starting", "instance_id": f"01V{self._made}"}
        machine |= version | {"config": self._stored(body["config"])}
        down = [m for m in self.machines.values() if m["state"] == "starting"]
        self.most_at_once_down = max(self.most_at_once_down, len(down))
        return Answer(200, machine)

    def start_machine(self, app: str, id: str, **_: Any) -> Answer:
        machine = self._machine(app, id)
        self._check_lease(id)
        previous, machine["state"] = machine["state"], "starting"
        return Answer(200, {"previous_state": previous})

    def stop_machine(self, app: str, id: str, body: Any, **_: Any) -> Answer:
        machine = self._machine(app, id)
        self._check_lease(id)
        if machine["state"] not in {"started", "starting", "stopping"}:
            raise Refused(400, error=f"machine is {machine['state']}")
        if body["signal"] != "SIGTERM" or not re.fullmatch(r"\d+s", body["timeout"]):
            raise Refused(400, error="invalid_argument: stop")
        machine["state"] = "stopping"
        return Answer(200, {"ok": True})

    def wait_machine(self, app: str, id: str, query: dict[str, str], **_: Any) -> Answer:
        machine, state = self._machine(app, id), query["state"]
        if not 1 <= int(query["timeout"]) <= 60:
            raise Refused(400, error="invalid_argument: timeout")
        if state == "stopped" and "instance_id" not in query:
            raise Refused(400, error="invalid_argument: instance_id")
        if query.get("instance_id") != machine["instance_id"]:
            raise Refused(400, error="the machine version was replaced")
        if (machine["state"], state) == ("destroying", "destroyed"):
            del self.apps[app][id]
            return Answer(200, {"ok": True})
        coming = {"created": "started", "starting": "started", "stopping": "stopped"}
        held = machine["name"] in (self.deaf if state == "stopped" else self.slow_starters)
        if not held:
            machine["state"] = coming.get(machine["state"], machine["state"])
        if machine["state"] != state:
            error = "deadline_exceeded: machine failed to reach desired state, "
            raise Refused(408, error=f"{error}{state}, currently {machine['state']}")
        return Answer(200, {"ok": True})

    def delete_machine(self, app: str, id: str, query: dict[str, str], **_: Any) -> Answer:
        machine = self._machine(app, id)
        self._check_lease(id)
        if machine["state"] in {"started", "starting", "stopping"} and "force" not in query:
            error = "failed_precondition: unable to destroy machine, not currently in a stopped "
            raise Refused(412, error=f"{error}state: {machine['state']}")
        machine["state"] = "destroying"  # and has its name for a while yet
        return Answer(200, {"ok": True})

    def _machine(self, app: str, id: str) -> dict[str, Any]:
        if id not in self.apps[app]:
            raise Refused(404, error=f"machine not found: {id}")
        return self.apps[app][id]

    def _check_lease(self, id: str) -> None:
        if id in self.leased:
            message = f"machine ID {id} lease currently held by ada@example.org"
            raise Refused(409, status="error", message=message)

    def _check_config(self, config: dict[str, Any]) -> None:
        guest = config["guest"]
        kind, cpus, memory = guest["cpu_kind"], guest["cpus"], guest["memory_mb"]
        if cpus not in CPUS[kind] or memory % 256:
            raise Refused(422, error=f"invalid_argument: invalid config.guest: {cpus} cpus")
        if not IMAGES.fullmatch(config["image"]):
            raise Refused(400, error=f"failed to get manifest {config['image']}: unknown image")
        if not all(isinstance(value, str) for value in config["env"].values()):
            raise Refused(400, error="json: cannot unmarshal into Go struct field .config.env")

    def _stored(self, config: dict[str, Any]) -> dict[str, Any]:
        """As Fly gives it back: not quite what was sent."""
        seconds = config["stop_config"]["timeout"] / 1e9
        stop = config["stop_config"] | {"timeout": f"{seconds:g}s"}
        guest = config["guest"] | {"persist_rootfs": "never"}
        return config | {"stop_config": stop, "guest": guest, "dns": {}}


APP = r"/v1/apps/(?P<app>[^/]+)"
MACHINES = rf"{APP}/machines"
MACHINE = rf"{MACHINES}/(?P<id>[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("POST", "/v1/apps", FakeFly.create_app),
    ("GET", APP, FakeFly.get_app),
    ("GET", MACHINES, FakeFly.list_machines),
    ("POST", MACHINES, FakeFly.create_machine),
    ("POST", MACHINE, FakeFly.update_machine),
    ("POST", f"{MACHINE}/start", FakeFly.start_machine),
    ("POST", f"{MACHINE}/stop", FakeFly.stop_machine),
    ("GET", f"{MACHINE}/wait", FakeFly.wait_machine),
    ("DELETE", MACHINE, FakeFly.delete_machine),
]


@contextmanager
def fake_fly() -> Iterator[FakeFly]:
    """One that listens on a port of its own."""
    fly = FakeFly()

    class Handler(BaseHTTPRequestHandler):
        protocol_version: ClassVar[str] = "HTTP/1.1"
        disable_nagle_algorithm: ClassVar[bool] = True  # else each answer takes 40 ms

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            asked = json.loads(self.rfile.read(length)) if length else None
            token = self.headers.get("Authorization")
            answer = fly.handle(self.command, self.path, token, asked)
            if not answer.status:
                self.close_connection = True
                return
            body = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
            content = body.encode()
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 - the names are given

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    fly.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fly
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
