"""``python -m ganger.compute.local DEPLOYMENT FOLDER``: the supervisor's process."""

import asyncio
import fcntl
import signal
import sys
from pathlib import Path

from ganger.compute.store import open_store
from ganger_broker.logs import configure_logging
from ganger_broker.settings import Settings

from .supervisor import Supervisor

__all__ = ["main"]


def main(name: str, folder: str) -> int:
    """Supervise a deployment whose logs are in ``folder``; 0 when it is down, or there is a
    supervisor already."""
    logs = Path(folder)
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / "supervisor.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        settings = Settings.load()
        configure_logging(settings)
        asyncio.run(_supervise(name, settings, logs))
    return 0


async def _supervise(name: str, settings: Settings, logs: Path) -> None:
    store = open_store(settings)
    supervisor = Supervisor(name, settings, store, logs)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # the terminal is gone: go on
    try:
        await supervisor.run()
    finally:
        await store.close()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
