"""Run a command with RabbitMQ and Redis there: with_services.py -- COMMAND …

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
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pika
import redis

ROOT = Path(__file__).parents[1]
BROKER = "amqp://guest:guest@127.0.0.1:5672/"
REDIS = "redis://127.0.0.1:6379/0"
PATIENCE = 90.0
"""Seconds a server has to come up."""


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


def until_answers(
    answers: Callable[[str], bool], url: str, process: subprocess.Popen[bytes]
) -> None:
    """Wait for a server that was started."""
    end = time.monotonic() + PATIENCE
    while not answers(url):
        if process.poll() is not None:
            raise Missing(f"{process.args} ended with status {process.returncode}")
        if time.monotonic() > end:
            raise Missing(f"{process.args} did not answer within {PATIENCE:g} s")
        time.sleep(0.2)


# ── private servers ───────────────────────────────────────────────────────────────────


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def find(name: str) -> str | None:
    """An installed server, also where a user's PATH does not lead."""
    places = [os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib/rabbitmq/bin", "/usr/local/sbin"]
    places += ["/opt/homebrew/sbin", "/opt/homebrew/bin"]
    return shutil.which(name, path=os.pathsep.join(places))


def start_rabbitmq(program: str, directory: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """A private RabbitMQ with all that it keeps in ``directory``."""
    directory.chmod(0o755)
    port, distribution = free_port(), free_port()
    config = directory / "rabbitmq.conf"
    config.write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\nlog.console = false\n")
    plugins = directory / "enabled_plugins"
    plugins.write_text("[].\n")
    environment = {
        **os.environ,
        "HOME": str(directory),
        "RABBITMQ_NODENAME": f"ganger-test-{port}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_CONFIG_FILE": str(config),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        "RABBITMQ_SERVER_START_ARGS": "-setcookie ganger-test",
    }
    process = _start([program], environment)
    url = f"amqp://guest:guest@127.0.0.1:{port}/"
    until_answers(broker_answers, url, process)
    return url, process


def start_redis(program: str, directory: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """A private Redis with all that it keeps in ``directory``."""
    port = free_port()
    words = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    process = _start([*words, "--appendonly", "yes", "--save", ""], dict(os.environ))
    url = f"redis://127.0.0.1:{port}/0"
    until_answers(redis_answers, url, process)
    return url, process


def _start(words: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that it can be ended with all its children
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a server that was started here, and only it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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
        start: Callable[[str, Path], tuple[str, subprocess.Popen[bytes]]],
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
        program = find(self.program)
        if program is None and self._compose():
            yield self.default
            return
        program = program or self._install()
        with tempfile.TemporaryDirectory(prefix="ganger-", ignore_cleanup_errors=True) as place:
            print(f"{self.name}: starting a private {program}", flush=True)
            url, process = self.start(program, Path(place))
            try:
                yield url
            finally:
                end(process)

    def _given(self) -> str | None:
        url = os.environ.get(self.variable)
        if url and not self.answers(url):
            raise Missing(f"{self.variable} is set, and no {self.name} answers at {_shown(url)}")
        return url

    def _listening(self) -> str | None:
        if os.environ.get("GANGER_TEST_SERVICES") == "private":
            return None
        return self.default if self.answers(self.default) else None

    def _compose(self) -> bool:
        docker = shutil.which("docker")
        if docker is None or subprocess.run([docker, "info"], capture_output=True).returncode:
            return False
        print(f"{self.name}: docker compose up", flush=True)
        words = [docker, "compose", "up", "--detach", "--wait", self.name.lower()]
        return subprocess.run(words, cwd=ROOT).returncode == 0 and self.answers(self.default)

    def _install(self) -> str:
        if os.geteuid() == 0 and shutil.which("apt-get"):
            print(f"{self.name}: apt-get install {self.package}", flush=True)
            # no server of the package's own is to start: ours is private
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
            for words in (["update", "-qq"], ["install", "-y", "-qq", self.package]):
                subprocess.run(["apt-get", *words], env=environment, stdout=subprocess.DEVNULL)
            program = find(self.program)
            if program:
                return program
        raise Missing(
            f"the tests need {self.name}. Any of these will do:\n"
            f"  - set {self.variable} to one that is running\n"
            f"  - start one on its usual port: docker compose up -d --wait\n"
            f"  - install it: apt-get install {self.package}, or brew install "
            f"{self.package.removesuffix('-server')}"
        )


SERVICES = (
    Service("RabbitMQ", "GANGER_BROKER_URL", BROKER, broker_answers, "rabbitmq-server",
            start_rabbitmq, "rabbitmq-server"),
    Service("Redis", "GANGER_REDIS_URL", REDIS, redis_answers, "redis-server",
            start_redis, "redis-server"),
)  # fmt: skip


def _shown(url: str) -> str:
    """A URL without its password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or ''}{parts.path}"


def main(words: list[str]) -> int:
    """Run the command; its exit status."""
    if words[:1] != ["--"] or len(words) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:
        try:
            for service in SERVICES:
                os.environ[service.variable] = url = stack.enter_context(service.url())
                print(f"{service.name}: {_shown(url)}", flush=True)
        except Missing as missing:
            print(f"with_services: {missing}", file=sys.stderr)
            return 1
        command = subprocess.Popen(words[1:])
        while True:
            try:
                return command.wait()
            except KeyboardInterrupt:
                continue  # the command has it too, and ends; then the servers do


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
