"""Run a command with RabbitMQ and Redis there: python -m tools.with_services -- COMMAND …

Each of the two is, in this order: what GANGER_BROKER_URL or GANGER_REDIS_URL says; a
server that listens on its usual port; a private one started from installed binaries and
ended afterwards; started by ``docker compose``; installed from Debian's packages where
this is root. The command sees both URLs in its environment. With none of these it ends
with status 1 and says what to install.

GANGER_TEST_SERVICES=private starts private servers whatever is listening.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pika
import redis

from tools.private_servers import PrivateServer, find, start_rabbitmq, start_redis

ROOT = Path(__file__).parents[1]
BROKER = "amqp://guest:guest@127.0.0.1:5672/"
REDIS = "redis://127.0.0.1:6379/0"


class Missing(Exception):
    """A server cannot be had here."""


# ── is it there? ──────────────────────────────────────────────────────────────────────


def broker_answers(url: str) -> bool:
    """Whether a RabbitMQ accepts this URL's login."""
    try:
        parameters = pika.URLParameters(url)
        parameters.socket_timeout = parameters.blocked_connection_timeout = 5
        parameters.connection_attempts = 1
        pika.BlockingConnection(parameters).close()
    except (pika.exceptions.AMQPError, OSError, ValueError):
        return False
    return True


def redis_answers(url: str) -> bool:
    """Whether a Redis answers at this URL."""
    try:
        with contextlib.closing(redis.Redis.from_url(url, socket_timeout=5)) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError, ValueError):
        return False


# ── finding or starting one ───────────────────────────────────────────────────────────


class Service:
    """How one of the two servers is found, started, installed."""

    def __init__(
        self,
        name: str,
        variable: str,
        default: str,
        answers: Callable[[str], bool],
        program: str,
        start: Callable[[Path], PrivateServer],
        package: str,
    ) -> None:
        self.name, self.variable, self.default = name, variable, default
        self.answers, self.program, self.start, self.package = answers, program, start, package

    @contextlib.contextmanager
    def url(self) -> Iterator[str]:
        """The URL of a server that answers, for as long as the context lasts."""
        found = self._given() or self._listening()
        if found:
            yield found
            return
        if find(self.program) is None:
            if not _private() and self._compose():
                yield self.default
                return
            self._install()
        with tempfile.TemporaryDirectory(prefix="ganger-", ignore_cleanup_errors=True) as place:
            print(f"{self.name}: starting a private {self.program}", flush=True)
            server = self.start(Path(place))
            try:
                yield server.url
            finally:
                server.stop()

    def _given(self) -> str | None:
        url = os.environ.get(self.variable)
        if url and not self.answers(url):
            raise Missing(f"{self.variable} is set, and no {self.name} answers at {_shown(url)}")
        return url

    def _listening(self) -> str | None:
        return self.default if not _private() and self.answers(self.default) else None

    def _compose(self) -> bool:
        docker = shutil.which("docker")
        if docker is None or subprocess.run([docker, "info"], capture_output=True).returncode:
            return False
        print(f"{self.name}: docker compose up", flush=True)
        words = [docker, "compose", "up", "--detach", "--wait", self.name.lower()]
        return subprocess.run(words, cwd=ROOT).returncode == 0 and self.answers(self.default)

    def _install(self) -> None:
        if os.geteuid() == 0 and shutil.which("apt-get"):
            print(f"{self.name}: apt-get install {self.package}", flush=True)
            # no server of the package's own is to start: ours is private
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
            for words in (["update", "-qq"], ["install", "-y", "-qq", self.package]):
                subprocess.run(["apt-get", *words], env=environment, stdout=subprocess.DEVNULL)
            if find(self.program):
                return
        raise Missing(
            f"the tests need {self.name}. Any of these will do:\n"
            f"  - set {self.variable} to one that is running\n"
            f"  - start one on its usual port: docker compose up -d --wait\n"
            f"  - install it: apt-get install {self.package}, or brew install "
            f"{self.package.removesuffix('-server')}"
        )


SERVICES = (
    Service(
        "RabbitMQ",
        "GANGER_BROKER_URL",
        BROKER,
        broker_answers,
        "rabbitmq-server",
        start_rabbitmq,
        "rabbitmq-server",
    ),
    Service(
        "Redis",
        "GANGER_REDIS_URL",
        REDIS,
        redis_answers,
        "redis-server",
        start_redis,
        "redis-server",
    ),
)


def _private() -> bool:
    """Whether only private servers will do."""
    return os.environ.get("GANGER_TEST_SERVICES") == "private"


def _shown(url: str) -> str:
    """A URL without its password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or ''}{parts.path}"


def main(words: list[str]) -> int:
    """Run the command; its exit status."""
    if words[:1] != ["--"] or len(words) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _terminated)
    with contextlib.ExitStack() as stack:
        try:
            for service in SERVICES:
                os.environ[service.variable] = url = stack.enter_context(service.url())
                print(f"{service.name}: {_shown(url)}", flush=True)
        except (Missing, RuntimeError, TimeoutError) as missing:
            print(f"with_services: {missing}", file=sys.stderr)
            return 1
        return run(words[1:])


def run(words: list[str]) -> int:
    """Run a command to its end; its exit status, 128 + n where signal n ended it.

    The servers outlive the command whatever happens: interrupts are its affair (the
    terminal sends them to both), termination is passed on.
    """
    command = subprocess.Popen(words)
    try:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                status = command.wait()
                return status if status >= 0 else 128 - status
    except SystemExit:
        command.terminate()
        command.wait()
        raise


def _terminated(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
