"""tools/make_venv.sh on machines unlike this one, made of a PATH with little on it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "make_venv.sh"


class Machine:
    """A PATH with only what is put there, an empty directory, and no packages to install."""

    def __init__(self, place: Path) -> None:
        self.bin = place / "bin"
        self.bin.mkdir()
        self.venv = place / "venv"
        self.requirements = place / "none.txt"
        self.requirements.write_text("")
        for program in ("rm", "cat"):
            found = shutil.which(program)
            assert found is not None
            (self.bin / program).symlink_to(found)
        self.has("id", "echo 1000")

    def has(self, name: str, script: str) -> None:
        program = self.bin / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def make(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", str(SCRIPT), str(self.venv), str(self.requirements)],
            env={"PATH": str(self.bin), "HOME": os.environ.get("HOME", "/"), **environment},
            capture_output=True,
            text=True,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


REAL = f'exec {sys.executable} "$@"'
SHIM = 'echo "pyenv: python3.13: command not found" >&2; exit 127'
NO_VENV = f'case "$2" in *ensurepip*) exit 1;; esac; {REAL}'
OLD = "exit 1"


def test_a_command_that_exists_and_does_not_run_is_passed_by(machine: Machine) -> None:
    machine.has("python3.13", SHIM)
    machine.has("python3.12", REAL)
    made = machine.make()
    assert made.returncode == 0, made.stderr
    assert (machine.venv / "bin" / "python").exists()


def test_what_is_there_and_works_is_kept(machine: Machine) -> None:
    machine.has("python3", REAL)
    machine.make()
    (machine.venv / "mine").touch()
    assert machine.make().returncode == 0
    assert (machine.venv / "mine").exists()


def test_what_is_broken_is_made_anew(machine: Machine) -> None:
    machine.has("python3", REAL)
    (machine.venv / "bin").mkdir(parents=True)
    (machine.venv / "bin" / "python").symlink_to("/gone/python")
    assert machine.make().returncode == 0
    assert (machine.venv / "bin" / "pip").exists()


@pytest.mark.parametrize("installed", [{}, {"python3": OLD}], ids=["none", "old"])
def test_no_python_is_said_with_what_to_do(machine: Machine, installed: dict[str, str]) -> None:
    for name, script in installed.items():
        machine.has(name, script)
    made = machine.make()
    assert made.returncode == 1
    assert made.stderr.startswith("Ganger needs Python 3.11 or newer: install it, or set PYTHON=")


def test_a_python_asked_for_is_not_replaced_by_another(machine: Machine) -> None:
    machine.has("python3", REAL)
    machine.has("mine", OLD)
    made = machine.make(PYTHON="mine")
    assert made.returncode == 1
    assert "PYTHON=mine is not Python 3.11 or newer" in made.stderr
    assert not machine.venv.exists()


def test_without_the_venv_module_it_says_which_package_has_it(machine: Machine) -> None:
    machine.has("python3", NO_VENV)
    made = machine.make()
    assert made.returncode == 1
    major, minor = sys.version_info[:2]
    assert f"apt-get install python{major}.{minor}-venv" in made.stderr


def test_root_has_the_venv_module_installed(machine: Machine, tmp_path: Path) -> None:
    said = tmp_path / "apt"
    machine.has("id", "echo 0")
    machine.has("apt-get", f'echo "$@" >> {said}')
    machine.has("python3", NO_VENV)
    machine.make()
    major, minor = sys.version_info[:2]
    update, install = said.read_text().splitlines()
    assert update.startswith("update")
    assert install.startswith("install")
    assert install.endswith(f"python{major}.{minor}-venv")
