"""The programs of others that deploy for us, asked without a shell: kubectl, docker."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .adapter import DeployFailed

__all__ = ["Program"]


@dataclass(frozen=True)
class Program:
    """A program that may be here. ``instead``: what one can do where it is not."""

    name: str
    instead: str

    def ask(
        self,
        *arguments: str,
        given: str = "",
        environment: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> str:
        """What it answers, having read ``given``; ``environment`` is beside our own.

        Raises:
            DeployFailed: it is not here, gave no answer in time, or failed: with its words.
        """
        return self._run(arguments, given, environment or {}, timeout).stdout

    def lines(
        self, *arguments: str, given: str = "", environment: Mapping[str, str] | None = None
    ) -> Iterator[str]:
        """All that it says, with what it warns of; raises as ``ask`` does."""
        done = self._run(arguments, given, environment or {}, None)
        yield from done.stdout.splitlines()
        yield from done.stderr.splitlines()

    def _run(
        self,
        arguments: Sequence[str],
        given: str,
        environment: Mapping[str, str],
        timeout: float | None,
    ) -> subprocess.CompletedProcess[str]:
        path = shutil.which(self.name)
        if path is None:
            raise DeployFailed(f"there is no {self.name} on the PATH; {self.instead}")
        try:
            done = subprocess.run(  # noqa: S603  # a list of arguments; no shell reads them
                [path, *arguments],
                input=given,
                env={**os.environ, **environment},
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise DeployFailed(f"{self.name} gave no answer in {timeout:g} s") from exc
        except OSError as exc:
            raise DeployFailed(f"{path} cannot be run: {exc}") from exc
        if done.returncode != 0:
            said = done.stderr.strip() or f"it ended with status {done.returncode}"
            raise DeployFailed(f"{self.name}: {said}")
        return done
