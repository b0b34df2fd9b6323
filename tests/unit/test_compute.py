"""``Compute``: every rule, each error with its field, all of them at once."""

import pickle
from string import ascii_lowercase
from typing import Any

import pytest
from pydantic import ValidationError

from ganger import Compute, Ganger, InvalidInput, InvalidWorkflow
from ganger.compute import CpuKind, Region, add_region, regions
from ganger.compute import nearest as nearest_module
from ganger.compute.configs import Compute as ComputeOfConfigs
from ganger.compute.nearest import nearest

GOOD: dict[str, Any] = {"cpu_kind": "shared", "cpus": 4, "memory_mb": 1_024, "regions": ["fra"]}


def wrong(**fields: Any) -> dict[str, str]:
    """The field of each error, and what it says."""
    with pytest.raises(ValidationError) as raised:
        Compute(**{**GOOD, **fields})
    return {str(error["loc"][0]): error["msg"] for error in raised.value.errors()}


def test_it_is_the_same_wherever_it_is_imported_from() -> None:
    assert Compute is ComputeOfConfigs


@pytest.mark.parametrize(
    ("kind", "cpus", "least", "most"),
    [
        ("shared", 1, 256, 2_048),
        ("shared", 4, 1_024, 8_192),
        ("performance", 1, 2_048, 8_192),
        ("performance", 4, 8_192, 32_768),
        ("shared", 64, 16_384, 131_072),
    ],
)
def test_memory_goes_with_the_cpus(kind: str, cpus: int, least: int, most: int) -> None:
    for memory in (least, most):
        fields = {**GOOD, "cpu_kind": kind, "cpus": cpus, "memory_mb": memory}
        assert Compute(**fields).memory_mb == memory
    for memory in (least - 1, most + 1):
        said = wrong(cpu_kind=kind, cpus=cpus, memory_mb=memory)["memory_mb"]
        assert f"must be from {least:,} to {most:,} MB for {cpus} {kind} cpu" in said


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("cpu_kind", "fast", "'shared' or 'performance'"),
        ("cpu_kind", b"shared", "b'shared' must be 'shared' or 'performance'"),
        ("cpus", 0, "greater than or equal to 1"),
        ("cpus", 65, "less than or equal to 64"),
        ("cpus", True, "valid integer"),
        ("cpus", 1.5, "valid integer"),
        ("memory_mb", "1024", "valid integer"),
        ("memory_mb", 0, "0 must be from 1,024 to 8,192 MB for 4 shared cpus"),
        ("memory_mb", -1, "-1 must be from 1,024 to 8,192 MB for 4 shared cpus"),
        ("num_replicas", -1, "greater than or equal to 0"),
        ("num_replicas", 1_001, "less than or equal to 1000"),
        ("regions", [], "must name at least one region"),
        ("regions", "fra", "'fra' must be a list of regions"),
        ("regions", ["fra", "fra"], "fra is named more than once"),
        ("regions", ["fr"], "'fr' is no region; did you mean 'cdg' (Paris) or 'fra' (Frankfurt)?"),
        ("regions", ["frankfurt"], "'frankfurt' is no region; did you mean 'fra' (Frankfurt)?"),
        ("regions", ["fra", 7], "7 is no region"),
        ("regions", ["iadd", "xyzzy"], "'iad' (Ashburn)?; 'xyzzy' is no region"),
        ("region", "fra", "Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_named(field: str, value: Any, said: str) -> None:
    assert said in wrong(**{field: value})[field]


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("FRA", ["fra"]),
        ("fraa", ["fra"]),
        ("querétaro", ["qro"]),
        ("frankfort", ["fra"]),
        ("ber", ["fra"]),
        ("muc", ["fra"]),
        ("munich", ["fra"]),
        ("München", ["fra"]),
        ("zrh", ["fra"]),
        ("dub", ["lhr"]),
        ("jfk", ["ewr"]),
        ("New York", ["ewr"]),
        ("san-francisco", ["sjc"]),
        ("germany", ["fra"]),
        ("Austria", ["waw"]),
        ("canada", ["yul", "yyz"]),
        ("de", ["fra", "den"]),
        ("frb", ["fra"]),
        ("frq", ["fra"]),
        ("iae", ["iad"]),
        ("ltr", ["lhr"]),
        ("nrr", ["nrt"]),
        ("amd", ["ams", "mad"]),
        ("sid", ["sin", "syd"]),
        ("rfa", ["fra"]),
        ("fa", ["fra"]),
        ("lhr1", ["lhr"]),
        ("Frankfurt", ["fra"]),
        ("paris", ["cdg"]),
        ("pariss", ["cdg"]),
        ("san", ["lax"]),
        ("us-east-1", []),
        ("eu-central-1", []),
        ("zzz", []),
        ("eu", []),
        ("", []),
    ],
)
def test_what_is_near_is_suggested_and_nothing_that_is_far(given: str, near: list[str]) -> None:
    assert nearest(given, regions()) == near


def test_a_code_one_letter_off_suggests_the_one_that_is_meant() -> None:
    known = regions()
    meant = {
        (f"{code[:at]}{letter}{code[at + 1 :]}", code)
        for code in known
        for at in range(len(code))
        for letter in ascii_lowercase
    }
    places = nearest_module._names(known.values())  # which are meant as they are
    found = {(word, code): nearest(word, known) for word, code in meant if word not in places}
    assert len(found) > 2_000
    assert [each for each, near in found.items() if each[1] not in near] == []
    assert max(map(len, found.values())) < 6


def test_equally_near_ones_are_told_together() -> None:
    said = "'amd' is no region; did you mean 'ams' (Amsterdam) or 'mad' (Madrid)?"
    assert said in wrong(regions=["amd"])["regions"]


def test_many_that_may_be_meant_are_told_by_their_codes() -> None:
    assert (
        "'us' is no region; did you mean one of atl, bos, den," in wrong(regions=["us"])["regions"]
    )
    assert wrong(regions=["zzz"])["regions"].endswith("see ganger.compute.regions()")


def test_the_nearest_of_every_place_is_a_region_or_a_country_of_some() -> None:
    known = {*regions(), *(region.country for region in regions().values())}
    assert [place for place in nearest_module._places() if place[2] not in known] == []


def test_all_that_is_wrong_is_told_at_once() -> None:
    found = wrong(memory_mb=1, num_replicas=-1, regions=["nowhere"])
    assert found.keys() == {"memory_mb", "num_replicas", "regions"}


def test_the_least_that_is_said() -> None:
    compute = Compute(**GOOD)
    assert (compute.cpu_kind, compute.num_replicas) == (CpuKind.SHARED, 1)
    assert Compute(**GOOD, num_replicas=0).num_replicas == 0


def test_it_is_immutable_comparable_and_hashable() -> None:
    compute = Compute(**{**GOOD, "regions": ["iad", "fra"]})
    same = Compute(**{**GOOD, "regions": ("fra", "iad")})
    assert compute == same
    assert len({compute, same, Compute(**GOOD)}) == 2
    with pytest.raises(ValidationError, match="frozen"):
        compute.cpus = 8  # type: ignore[misc]
    assert Compute.model_validate_json(compute.model_dump_json()) == compute


def test_it_may_be_given_in_its_order() -> None:
    given = Compute("shared", 4, 1_024, 2, ["iad", "fra"])
    assert given == Compute(**{**GOOD, "num_replicas": 2, "regions": ["fra", "iad"]})
    assert Compute("shared", 4, 1_024, regions=["fra"]) == Compute(**GOOD)
    assert pickle.loads(pickle.dumps(given)) == given  # noqa: S301 - our own
    assert hash(pickle.loads(pickle.dumps(given))) == hash(given)  # noqa: S301 - our own
    assert Compute.model_validate(given.model_dump()) == given
    with pytest.raises(TypeError):
        Compute("shared", 4, 1_024, 2, ["fra"], "more")  # type: ignore[call-arg]


def test_what_is_left_out_is_told_with_the_rest() -> None:
    with pytest.raises(ValidationError) as raised:
        Compute("shared", memory_mb=1)
    found = {error["loc"][0]: error["msg"] for error in raised.value.errors()}
    assert found.keys() == {"cpus", "memory_mb", "regions"}
    assert found["cpus"] == found["regions"] == "Field required"


def test_a_copy_is_checked_too() -> None:
    compute = Compute(**GOOD)
    copy = compute.model_copy(update={"regions": ["iad", "fra"], "num_replicas": 3})
    assert copy == Compute(**{**GOOD, "regions": ["fra", "iad"], "num_replicas": 3})
    with pytest.raises(ValidationError, match="99,999 must be from 1,024 to 8,192"):
        compute.model_copy(update={"memory_mb": 99_999})


def test_a_step_takes_none_that_was_made_unchecked() -> None:
    unchecked = Compute.model_construct(**{**GOOD, "memory_mb": 99_999})
    with pytest.raises(InvalidWorkflow, match="compute: memory_mb: Value error, 99,999 must be"):
        Ganger().task("t", compute=unchecked)(lambda input, context: None)


def test_the_table_of_regions() -> None:
    assert len(regions()) == 34
    assert regions()["gru"] == Region("gru", "Sao Paulo", "BR")
    assert all(len(region.code) == 3 and len(region.country) == 2 for region in regions().values())


def test_a_deployment_can_add_its_own_regions() -> None:
    assert "dc1x" not in regions()
    added = add_region("dc1x", "Basement", "DE")
    assert add_region("dc1x", "Basement", "DE") == added
    assert Compute(**{**GOOD, "regions": ["dc1x"]}).regions == ("dc1x",)
    with pytest.raises(InvalidInput, match="'fra' is Frankfurt, DE already"):
        add_region("fra", "Freising", "DE")
    with pytest.raises(InvalidInput, match="code: 'DC 1' must be lower case letters"):
        add_region("DC 1", "Basement", "DE")


def test_what_no_machine_has_is_told_whatever_else_is_wrong() -> None:
    found = wrong(
        cpu_kind="bogus", cpus=0, memory_mb=1, num_replicas=-1, regions=["x", "fra", "fra"]
    )
    assert found.keys() == {"cpu_kind", "cpus", "memory_mb", "num_replicas", "regions"}
    assert found["memory_mb"].endswith("1 must be from 256 to 524,288 MB for any machine")
    assert "'x' is no region" in found["regions"]
    assert "fra is named more than once" in found["regions"]


@pytest.mark.parametrize(("city", "country"), [(None, "DE"), ("Basement", None), ("", "DE")])
def test_a_region_needs_its_texts(city: Any, country: Any) -> None:
    with pytest.raises(InvalidInput, match="must be a text"):
        add_region("dc2", city, country)
    assert "dc2" not in regions()
