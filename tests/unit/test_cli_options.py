"""Labels and JSON from the command line."""

from typing import Any

import pytest

from ganger import InvalidInput, InvalidLabel
from ganger.cli.options import read_labels, read_object


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("memory=512", 512),
        ("memory=0.5", 0.5),
        ("memory=-1e3", -1000.0),
        ('model="512"', "512"),
        ("model=fancy-ai-model-v2", "fancy-ai-model-v2"),
        ("model=a=b", "a=b"),
        ("model=", ""),
        ('model=""', ""),
        ("model=true", "true"),
        ("model=null", "null"),
        ('model="NaN"', "NaN"),
        ("model=1e999x", "1e999x"),
        ('model="1e999"', "1e999"),
        ("model=[1]", "[1]"),
        ("model=1.2.3", "1.2.3"),
        ("model=007", "007"),
    ],
)
def test_a_label_is_a_number_a_json_string_or_a_string(text: str, value: Any) -> None:
    (found,) = read_labels([text]).values()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["memory"], "--label: 'memory' must be KEY=VALUE"),
        (["=1"], "--label: the key '' must have 1 to 128 characters"),
        (["a=1", "a=2"], "--label: 'a' is given twice"),
        (["a=\udcff"], "--label: 'a=\\udcff' is not valid Unicode text"),
        ([f"a={2**60}"], "--label a: the whole number"),
        (["a=1e999"], "--label a: 1e999 is no number that a label can be; in quotes it is a str"),
        (["a=-1e999"], "--label a: -1e999 is no number that a label can be"),
        (["a=NaN"], "--label a: NaN is no number that a label can be"),
        (["a=-inf"], "--label a: -inf is no number that a label can be"),
        (["a=Infinity"], "--label a: Infinity is no number that a label can be"),
    ],
)
def test_a_bad_label_is_named(texts: list[str], said: str) -> None:
    with pytest.raises(InvalidLabel) as caught:
        read_labels(texts)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "1", "null"])
def test_what_is_no_json_object_is_named_with_its_option(text: str) -> None:
    with pytest.raises(InvalidInput, match="--input: "):
        read_object("--input", text)
    assert read_object("--input", '{"a": 1}') == {"a": 1}


def test_half_a_surrogate_pair_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"is not JSON: \\ud800 \(byte 6\) is half of a"):
        read_object("--input", '{"a":"\\ud800"}')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"n": 0, "n": 0}', "--input: n: given twice in one object"),
        ('{"a": [1, {"b": 1, "b": 2}]}', "--input: a[1].b: given twice in one object"),
        ('{"a":' * 100_000, "--input: is nested too deeply"),
        ('{"a":"\udcff"}', '--input: \'{"a":"\\udcff"}\' is not valid Unicode text'),
    ],
)
def test_an_object_that_can_be_read_in_two_ways_or_in_none_is_named(text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_object("--input", text)
    assert str(caught.value) == said
