"""Every program in examples/ runs as written, needing only Python, and prints what it promises."""

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def promised(program: Path) -> list[str]:
    """The lines below "Prints:" in its docstring."""
    text = ast.get_docstring(ast.parse(program.read_text())) or ""
    _, found, block = text.partition("Prints:\n")
    assert found, f"{program.name} does not say what it prints"
    indented = [line for line in block.splitlines() if line.startswith("    ") or not line]
    return textwrap.dedent("\n".join(indented)).strip().splitlines()


@pytest.mark.parametrize("program", EXAMPLES, ids=lambda program: program.stem)
def test_an_example_prints_what_it_promises(program: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GANGER_")}
    ended = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    said = ended.stdout.splitlines()
    for line in promised(program):
        assert line in said, f"{line!r} is not in:\n{ended.stdout}\n{ended.stderr}"
        said = said[said.index(line) + 1 :]
