"""Programs of others: what is said where they fail in a way that has no words of its own."""

from pathlib import Path

import pytest

from ganger.compute.adapter import DeployFailed
from ganger.compute.programs import Program


def test_one_that_does_not_answer_is_not_waited_for() -> None:
    with pytest.raises(DeployFailed, match=r"^sleep gave no answer in 0.1 s$"):
        Program("sleep", "").ask("30", timeout=0.1)


def test_one_that_says_nothing_has_its_status_told() -> None:
    with pytest.raises(DeployFailed, match=r"^false: it ended with status 1$"):
        Program("false", "").ask()


def test_one_that_cannot_be_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "kubectl"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeployFailed, match=f"{broken} cannot be run: "):
        Program("kubectl", "").ask("version")


def test_it_reads_what_it_is_given_and_no_shell_reads_its_arguments() -> None:
    assert Program("cat", "").ask(given="ö\n") == "ö\n"
    assert list(Program("echo", "").lines("$HOME; ls", "*")) == ["$HOME; ls *"]
