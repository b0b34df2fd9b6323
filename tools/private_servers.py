"""RabbitMQ and Redis servers of our own, to stop, kill and start again.

They listen on 127.0.0.1 on free ports and keep their data in a directory that is given.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

START_DEADLINE = 90.0
"""Seconds; RabbitMQ takes five on an idle machine."""
STOP_DEADLINE = 60.0
"""Seconds; then it is killed, as nobody else would end it."""
POLL_INTERVAL = 0.1
MAX_MESSAGE_SIZE = 16 * 2**20
"""Bytes; the default of RabbitMQ 4, for older ones as well."""


class PrivateServer:
    """A server process of ours, and only that one: it is signalled by its process id."""

    url: str

    def __init__(self, command: list[str], environment: dict[str, str], directory: Path) -> None:
        self._command = command
        self._environment = {**os.environ, **environment}
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start; returns when it answers. What does not come to that is ended."""
        with (self._directory / "output.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _poll(self._answers_or_died, f"{self._command[0]} to answer")
        except BaseException:  # an interrupt too: nobody else knows of the process
            self.kill()
            raise

    def stop(self) -> None:
        """Stop it as an operator would; returns when it is gone."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with no chance to tidy up; returns when it is gone."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Have it stand still with its connections open, until ``thaw``."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        self._signal(signal.SIGCONT)

    def forget(self) -> None:
        """While it is stopped: lose all its data, as a new machine would have."""
        for data in ("mnesia", "appendonlydir"):
            shutil.rmtree(self._directory / data, ignore_errors=True)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def answers(self) -> bool:
        """Whether a client would be served."""
        raise NotImplementedError

    def _answers_or_died(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            output = (self._directory / "output.log").read_text(errors="replace")
            raise RuntimeError(f"{self._command[0]} ended while starting:\n{output[-4000:]}")
        return self.answers()

    def _signal(self, what: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("it was not started")
        self._process.send_signal(what)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            try:
                self._process.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class PrivateRabbit(PrivateServer):
    """A RabbitMQ node; ``url`` stays the same over restarts, and so do its queues."""

    def __init__(self, directory: Path) -> None:
        self.port, distribution_port = _free_port(), _free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        (directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.private = 127.0.0.1:{self.port}\n"
            f"max_message_size = {MAX_MESSAGE_SIZE}\n"
        )
        for empty in ("rabbitmq-env.conf", "enabled_plugins"):
            (directory / empty).write_text("[]." if empty == "enabled_plugins" else "")
        local_only = "-kernel inet_dist_use_interface {127,0,0,1}"
        environment = {
            "HOME": str(directory),  # for the Erlang cookie
            "ERL_FLAGS": local_only,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RUNNING_UNDER_SYSTEMD": "1",  # become the server instead of waiting for it
            "RABBITMQ_NODENAME": f"private-{secrets.token_hex(6)}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
        }
        super().__init__([_program("rabbitmq-server")], environment, directory)

    def answers(self) -> bool:
        """Whether it speaks AMQP: its ports are open well before it does."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as client:
                client.sendall(b"AMQP\x00\x00\x09\x01")
                return client.recv(1) == b"\x01"
        except OSError:
            return False


class PrivateRedis(PrivateServer):
    """A Redis server with ``appendonly yes``; ``url`` stays the same over restarts."""

    def __init__(self, directory: Path) -> None:
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)]
        command = [_program("redis-server"), *options, "--appendonly", "yes", "--save", ""]
        super().__init__(command, {}, directory)

    def answers(self) -> bool:
        """Whether it has loaded its data and serves."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as client:
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def start_rabbitmq(directory: Path) -> PrivateRabbit:
    """A running RabbitMQ with its data in ``directory``."""
    server = PrivateRabbit(directory)
    server.start()
    return server


def start_redis(directory: Path) -> PrivateRedis:
    """A running Redis with its data in ``directory``."""
    server = PrivateRedis(directory)
    server.start()
    return server


def _poll(condition: Callable[[], bool], what: str) -> None:
    pause = threading.Event()
    for _ in range(int(START_DEADLINE / POLL_INTERVAL)):
        if condition():
            return
        pause.wait(POLL_INTERVAL)
    raise TimeoutError(f"waited {START_DEADLINE:.0f} s for {what}")


def find(program: str) -> str | None:
    """An installed server, also where a user's PATH does not lead."""
    places = ["/usr/lib/rabbitmq/bin", os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]
    # Debian's /usr/sbin/rabbitmq-server insists on being root or rabbitmq; the first does not
    places += ["/opt/homebrew/sbin", "/opt/homebrew/bin"]
    return shutil.which(program, path=os.pathsep.join(places))


def _program(name: str) -> str:
    found = find(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
