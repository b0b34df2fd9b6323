"""Fly's Machines API over HTTP: what is tried again, what is not, and what it says then."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import ceil
from types import TracebackType
from typing import Any, TypeVar

import httpx
import msgspec
import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.wait import wait_exponential, wait_random

from ganger.compute.adapter import DeployFailed

from .machines import DEPLOYMENT, Machine

__all__ = ["FlyRefused", "MachinesApi"]

T = TypeVar("T")

MOST_TRIES = 8
"""Of one request. With the waits below they bridge about two minutes, where answers come."""
FIRST_WAIT = 1.0
"""Seconds to the second try, doubled for each further one: the API takes one request a second
of each kind, and three in a burst."""
LONGEST_WAIT = 30.0
"""Seconds between tries at most, unless the API asks for more."""
LONGEST_ASKED_WAIT = 300.0
"""Seconds: more than this the API may ask for, but we do not wait for it."""
JITTER = 1.0
"""Seconds at most added by chance, so that those who were refused together do not come back so."""
PATIENCE = 120.0
"""Seconds that one request is tried for in all, what Fly asks to be waited for beside."""
ANSWER = 20.0
"""Seconds until an answer that does not come is given up."""
WAIT_MOST = 60
"""Seconds that the API waits for a state at most, in one request."""
_BACKOFF = wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)
_SAID_MOST = 500
"""Characters of an answer that is no JSON."""

_NO_TOKEN = "FLY_API_TOKEN {}; get one for the app with: fly tokens create deploy --app {}"  # noqa: S105

log = structlog.get_logger(__name__)


class FlyRefused(DeployFailed):
    """Fly will not do it, and asking again is of no use. ``status`` is that of HTTP."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class _Passing(DeployFailed):
    """It may go better in a moment: in ``wait`` seconds, if Fly says when."""

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


class MachinesApi:
    """The machines of one Fly app.

    Every method raises ``FlyRefused``, or ``DeployFailed`` where Fly cannot be reached.
    """

    def __init__(
        self,
        base: str,
        app: str,
        token: str,
        sleep: Callable[[float], None],
        patience: float = PATIENCE,
    ) -> None:
        if not token:
            raise DeployFailed(_NO_TOKEN.format("is not set", app))
        if not (token.isascii() and token.isprintable()):  # httpx would print it in its error
            raise DeployFailed(_NO_TOKEN.format("is no token", app))
        self._app = app
        self._sleep = sleep
        self._patience = patience
        self._secrets = _secrets(token)
        headers = {"Authorization": f"Bearer {token}", "User-Agent": "ganger"}
        self._http = httpx.Client(base_url=base, headers=headers, timeout=ANSWER)

    def __enter__(self) -> "MachinesApi":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def has_app(self) -> bool:
        """Whether there is such an app, as far as the token may see."""
        try:
            self._call("GET", f"/v1/apps/{self._app}")
        except FlyRefused as exc:
            if exc.status == httpx.codes.NOT_FOUND:
                return False
            raise
        return True

    def create_app(self, org: str) -> None:
        """Make the app. If it is there (its answer was lost, say) that is fine."""
        try:
            self._call("POST", "/v1/apps", body={"app_name": self._app, "org_slug": org})
        except FlyRefused as exc:
            if exc.status not in _TAKEN or not self.has_app():
                raise

    def machines(self, deployment: str) -> list[Machine]:
        """Those that are marked as the deployment's."""
        marked = {f"metadata.{DEPLOYMENT}": deployment}
        path = self._path()
        return _decoded(self._call("GET", path, params=marked), list[Machine], path)

    def create(self, request: Mapping[str, Any], find: Callable[[], Machine | None]) -> Machine:
        """Make a machine and launch it, once.

        A request whose answer was lost may have made it. So before it is sent again, and where
        the name is taken, ``find`` is asked for it.
        """
        path, sent = self._path(), False

        def attempt() -> Machine:
            nonlocal sent
            if sent and (found := find()) is not None:
                return found
            sent = True
            try:
                return _decoded(self._once("POST", path, body=request), Machine, path)
            except FlyRefused as exc:
                if exc.status in _TAKEN and (found := find()) is not None:
                    return found
                raise

        return self._insist(attempt)

    def update(self, machine: Machine, request: Mapping[str, Any]) -> Machine:
        """Give it this config; it is started anew with it."""
        path = self._path(machine)
        body = {"config": request["config"]}
        return _decoded(self._call("POST", path, body=body), Machine, path)

    def start(self, machine: Machine) -> None:
        """Start one that is at rest."""
        self._call("POST", self._path(machine, "/start"))

    def stop(self, machine: Machine, grace: int) -> None:
        """Send SIGTERM, and SIGKILL so many seconds later; returns at once."""
        body = {"signal": "SIGTERM", "timeout": f"{grace}s"}
        self._unless_gone("POST", self._path(machine, "/stop"), body=body)

    def destroy(self, machine: Machine, *, force: bool) -> None:
        """Destroy it; ``force``: even if it runs."""
        params = {"force": "true"} if force else None
        self._unless_gone("DELETE", self._path(machine), params=params)

    def reaches(self, machine: Machine, state: str, patience: float) -> bool:
        """Wait until it is in this state, or about so many seconds have passed without.

        One that is gone has stopped, and is destroyed.
        """
        params = {"state": state, "timeout": str(WAIT_MOST)}
        if machine.instance_id:
            params["instance_id"] = machine.instance_id
        for _ in range(ceil(patience / WAIT_MOST)):
            try:
                path = self._path(machine, "/wait")
                self._call("GET", path, params=params, answer=WAIT_MOST + ANSWER)
            except FlyRefused as exc:
                if exc.status == httpx.codes.NOT_FOUND and state != "started":
                    return True
                if exc.status != httpx.codes.REQUEST_TIMEOUT:  # not yet
                    raise
            else:
                return True
        return False

    def _path(self, machine: Machine | None = None, action: str = "") -> str:
        path = f"/v1/apps/{self._app}/machines"
        return path if machine is None else f"{path}/{machine.id}{action}"

    def _unless_gone(self, method: str, path: str, **request: Any) -> None:
        try:
            self._call(method, path, **request)
        except FlyRefused as exc:
            if exc.status != httpx.codes.NOT_FOUND:
                raise

    def _call(self, method: str, path: str, **request: Any) -> bytes:
        return self._insist(lambda: self._once(method, path, **request))

    def _insist(self, attempt: Callable[[], T]) -> T:
        asked_for = 0.0

        def is_over(state: RetryCallState) -> bool:
            spent = (state.seconds_since_start or 0.0) + state.upcoming_sleep
            asked = asked_for + (_asked(state) or 0.0)
            return state.attempt_number >= MOST_TRIES or spent - asked > self._patience

        def before_sleep(state: RetryCallState) -> None:
            nonlocal asked_for
            asked_for += _asked(state) or 0.0
            _say(state)

        retrying = Retrying(
            retry=retry_if_exception_type(_Passing),
            stop=is_over,
            wait=_until_next,
            sleep=self._sleep,
            before_sleep=before_sleep,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except _Passing as exc:
            tries = retrying.statistics["attempt_number"]
            times = "once" if tries == 1 else f"{tries} times"
            raise DeployFailed(f"{exc} (tried {times})") from exc

    def _once(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        answer: float | None = None,
    ) -> bytes:
        timeout = httpx.Timeout(ANSWER, read=answer or ANSWER)
        try:
            got = self._http.request(method, path, params=params, json=body, timeout=timeout)
        except httpx.RequestError as exc:
            said = self._redacted(str(exc)) or type(exc).__name__
            raise _Passing(f"{method} {path}: {said}") from exc
        status = got.status_code
        if got.is_success:
            return self._redacted(got.content.decode(errors="replace")).encode()
        said = self._redacted(_said(got)).strip()[:_SAID_MOST]
        text = f"{method} {path}: {status}: {said}"
        if status == httpx.codes.TOO_MANY_REQUESTS or got.is_server_error:
            raise _Passing(text, _asked_wait(got.headers.get("Retry-After"), datetime.now(UTC)))
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            text = f"{text}. {_NO_TOKEN.format('was refused', self._app)}"
        raise FlyRefused(text, status)

    def _redacted(self, text: str) -> str:
        """What was said, without the token: a server may say again what it was told."""
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text


_TAKEN = (httpx.codes.CONFLICT, httpx.codes.UNPROCESSABLE_ENTITY)
"""What Fly answers where a name is taken, of machines and of apps; other things too."""


_SECRET_LEAST = 6
"""Characters of a part of a token that are not shown; fewer say nothing, and are words."""


def _secrets(token: str) -> list[str]:
    """The token, and its parts: it may be a list, after a word that says its kind."""
    parts = [part for part in re.split(r"[\s,]+", token) if len(part) >= _SECRET_LEAST]
    return sorted({token, *parts}, key=len, reverse=True)


def _decoded(content: bytes, kind: type[T], path: str) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise DeployFailed(f"{path}: Fly's answer is not understood: {exc}") from exc


def _said(answer: httpx.Response) -> str:
    """Fly's own words: a field of the answer, if it is JSON."""
    try:
        match answer.json():
            case {"message": str(text)} | {"error": str(text)} if text:
                return text
    except ValueError:
        pass
    return answer.text.strip() or answer.reason_phrase


def _asked_wait(header: str | None, now: datetime) -> float | None:
    """The seconds that ``Retry-After`` asks for, as a number or a date."""
    if header is None:
        return None
    if header.isascii() and header.isdigit():
        seconds = float(header)
    else:
        try:
            seconds = (parsedate_to_datetime(header) - now).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), LONGEST_ASKED_WAIT)


def _asked(state: RetryCallState) -> float | None:
    """The seconds that Fly asked to be waited for."""
    failure = state.outcome.exception() if state.outcome else None
    return failure.wait if isinstance(failure, _Passing) else None


def _until_next(state: RetryCallState) -> float:
    asked = _asked(state)
    return (_BACKOFF(state) if asked is None else asked) + wait_random(0, JITTER)(state)


def _say(state: RetryCallState) -> None:
    failure = state.outcome.exception() if state.outcome else None
    log.warning(
        "Fly is asked again",
        attempt=state.attempt_number,
        wait=round(state.upcoming_sleep, 1),
        error=str(failure),
    )
