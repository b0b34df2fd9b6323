"""Programs on the PATH that note what they are asked, and answer what a test says."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

__all__ = ["FakeProgram"]

_SOURCE = """\
#!{python} -I
import json, os, pathlib, sys
here = pathlib.Path({folder!r})
asked = {{
    "arguments": sys.argv[1:],
    "given": sys.stdin.read(),
    "url": os.environ.get("GANGER_BROKER_URL"),
}}
with (here / "asked").open("a") as file:
    file.write(json.dumps(asked) + "\\n")
said = " ".join(sys.argv[1:])
for words, out, err, status in json.loads((here / "answers").read_text()):
    if words in said:
        sys.stdout.write(out)
        sys.stderr.write(err)
        sys.exit(status)
"""


class FakeProgram:
    """The only program on the PATH; of its answers the first whose words are asked counts."""

    def __init__(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = tmp_path
        self._answers: list[tuple[str, str, str, int]] = []
        path = tmp_path / "bin" / name
        path.parent.mkdir()
        path.write_text(_SOURCE.format(python=sys.executable, folder=str(tmp_path)))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent))
        self._write()

    def answers(self, words: str, out: str = "", err: str = "", status: int = 0) -> None:
        """Answer so when these words are asked."""
        self._answers.append((words, out, err, status))
        self._write()

    def _write(self) -> None:
        (self._folder / "answers").write_text(json.dumps(self._answers))

    @property
    def asked(self) -> list[dict[str, Any]]:
        """What it was asked: the arguments, and what it was given to read."""
        notes = self._folder / "asked"
        lines = notes.read_text().splitlines() if notes.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def commands(self) -> list[str]:
        """The same, the arguments only, each as a line."""
        return [" ".join(each["arguments"]) for each in self.asked]
