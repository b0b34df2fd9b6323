"""Every program in examples/ runs as written, needing only Python, and prints what it promises."""

import ast
import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from .fleet import Fleet

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def promised(program: Path) -> list[str]:
    """The lines below "Prints:" in its docstring."""
    text = ast.get_docstring(ast.parse(program.read_text())) or ""
    _, found, block = text.partition("Prints:\n")
    assert found, f"{program.name} does not say what it prints"
    indented = [line for line in block.splitlines() if line.startswith("    ") or not line]
    return textwrap.dedent("\n".join(indented)).strip().splitlines()


def run(program: Path, folder: Path, **ganger: str) -> list[str]:
    """What it prints, with these settings and no others."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GANGER_")}
    ended = subprocess.run(
        [sys.executable, str(program)],
        cwd=folder,
        env=environment | ganger,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()


def kept(program: Path, said: list[str]) -> None:
    """It printed what it promises, in that order."""
    left = said
    for line in promised(program):
        assert line in left, f"{line!r} is not in:\n" + "\n".join(said)
        left = left[left.index(line) + 1 :]


@pytest.mark.parametrize("program", EXAMPLES, ids=lambda program: program.stem)
def test_an_example_prints_what_it_promises(program: Path, tmp_path: Path) -> None:
    kept(program, run(program, tmp_path))


@pytest.mark.timeout(300)
async def test_with_real_servers_they_print_the_same(fleet: Fleet, tmp_path: Path) -> None:
    """One after another, with one dispatcher: the next finds what the last has left behind."""
    await fleet.dispatcher()
    served = [each for each in EXAMPLES if "GANGER_BROKER_URL" in each.read_text()]
    assert len(served) >= len(EXAMPLES) - 2, "all but the ones about compute and about testing"
    for program in served:
        kept(program, await asyncio.to_thread(run, program, tmp_path, **fleet.environment))
