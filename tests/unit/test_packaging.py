"""What is built and installed: the wheel, the pins, the servers' addresses."""

import re
import tomllib
from email.parser import Parser
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tools import with_services

import ganger
from ganger_broker.settings import Settings

ROOT = Path(__file__).parents[2]
PINS = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    directory = tmp_path_factory.mktemp("wheel")
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(directory), versions=["standard"])
    return ZipFile(built)


def metadata(wheel: ZipFile, name: str) -> str:
    (found,) = [entry for entry in wheel.namelist() if entry.endswith(f".dist-info/{name}")]
    return wheel.read(found).decode()


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "ganger",
        "ganger_broker",
        "ganger_dispatcher",
    }


def test_the_wheel_holds_what_is_no_python_too(wheel: ZipFile) -> None:
    held = set(wheel.namelist())
    packages = [ROOT / part for part in ("broker", "worker", "dispatcher")]
    data = [
        (path, path.relative_to(package).as_posix())
        for package in packages
        for path in [*package.rglob("*.lua"), *package.rglob("py.typed")]
    ]
    assert len(data) > 3
    assert {name for _, name in data} <= held
    for path, name in data:
        assert wheel.read(name) == path.read_bytes()


def test_the_wheel_is_of_this_version_and_has_the_command(wheel: ZipFile) -> None:
    assert Parser().parsestr(metadata(wheel, "METADATA"))["Version"] == ganger.__version__
    assert "ganger = ganger.cli:main" in metadata(wheel, "entry_points.txt")


def test_a_worker_alone_asks_for_neither_numpy_nor_redis(wheel: ZipFile) -> None:
    asked = Parser().parsestr(metadata(wheel, "METADATA")).get_all("Requires-Dist", [])
    plain = {Requirement(text).name for text in asked if "extra ==" not in text}
    assert "aio-pika" in plain
    assert not plain & {"numpy", "redis", "fakeredis"}


def test_there_are_pins() -> None:
    assert [path.name for path in PINS] == ["bench.txt", "dev.txt"]


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.name)
def test_every_line_pins_one_version_and_names_no_place(path: Path) -> None:
    for line in path.read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][\w.]*( ; [^/@]+)?", line), line


def test_all_that_the_project_asks_for_is_pinned_as_asked() -> None:
    pinned = [
        Requirement(line)
        for line in (ROOT / "requirements/dev.txt").read_text().split("\n")
        if line
    ]
    versions: dict[str, list[str]] = {}
    for pin in pinned:
        (version,) = pin.specifier
        versions.setdefault(canonicalize_name(pin.name), []).append(version.version)
    extras = PROJECT["project"]["optional-dependencies"].values()
    groups = [PROJECT["project"]["dependencies"], *extras, PROJECT["dependency-groups"]["dev"]]
    asked = [Requirement(text) for group in groups for text in group]
    asked += [Requirement(text) for text in PROJECT["build-system"]["requires"]]
    for requirement in asked:
        name = canonicalize_name(requirement.name)
        if name == "ganger":
            continue
        assert versions.get(name), f"{requirement} is not pinned: make lock"
        for version in versions[name]:
            assert requirement.specifier.contains(version), f"{requirement}, pinned {version}"


@pytest.mark.parametrize(
    "name", ["Makefile", ".ci/run", "pyproject.toml", "tools/make_venv.sh", "requirements/bench.in"]
)
def test_no_file_of_the_set_up_says_where_to_download_from(name: str) -> None:
    assert "://" not in (ROOT / name).read_text()


def test_compose_serves_where_the_defaults_look() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    for service, url in [("rabbitmq", "broker_url"), ("redis", "redis_url")]:
        host, port, _ = services[service]["ports"][0].split(":")
        assert f"{host}:{port}/" in defaults[url]
        assert services[service]["healthcheck"]["test"]
        assert services[service]["volumes"]
    assert "--appendonly yes" in " ".join(services["redis"]["command"])


def test_tests_look_for_servers_where_the_defaults_do() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert defaults["broker_url"] == with_services.BROKER
    assert defaults["redis_url"] == with_services.REDIS
