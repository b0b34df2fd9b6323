"""What is wrong with a step is said where it is written."""

from collections.abc import Callable
from typing import Any

import pytest

from ganger import (
    Context,
    Ganger,
    InvalidInput,
    InvalidLabel,
    InvalidWorkflow,
    from_input,
)

app = Ganger(broker_url="memory://declarations")


class Base:
    @app.step()
    async def first(self, context: Context) -> None: ...


def step(**options: Any) -> Callable[[], object]:
    def declare() -> object:
        @app.step(**options)
        async def walk(self: object, context: Context) -> None: ...

        return walk

    return declare


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (step(name="Walk"), "step 'Walk': the name must be lower case"),
        (step(name=""), "step '': the name must be"),
        (step(timeout="soon"), "step 'walk': timeout: 'soon' must be"),
        (step(timeout=0), "step 'walk': timeout: 0 must be a positive"),
        (step(schedule_timeout=-1), "step 'walk': schedule_timeout: -1 must be"),
        (step(retries=-1), "step 'walk': retries: -1 must be a whole number"),
        (step(retries=10**30), "step 'walk': retries: 10000"),
        (step(timeout=2e9), "step 'walk': timeout: 2000000000.0 is over 1,000,000,000 s"),
        (step(timeout="99999d"), "step 'walk': timeout: '99999d' is over"),
        (step(schedule_timeout=1e308), "step 'walk': schedule_timeout: 1e+308 is over"),
        (step(backoff_factor=0.5), "step 'walk': backoff_factor: 0.5 must be a number from 1 to"),
        (step(backoff_factor=float("nan")), "step 'walk': backoff_factor: nan must be a number"),
        (step(backoff_max_seconds=0), "step 'walk': backoff_max_seconds: 0 must be a positive"),
        (step(jitter=1.1), "step 'walk': jitter: 1.1 must be a number from 0 to 1"),
        (step(retries=True), "step 'walk': retries: True must be a whole number"),
        (step(parents="a"), "step 'walk': parents: 'a' must be a list"),
        (step(parents=[1]), "step 'walk': parents: 1 is neither"),
        (step(parents=None), "step 'walk': parents: None must be a list"),
        (step(parents=["a", "b", "a"]), "step 'walk': parents: 'a' is given twice"),
        (step(sets_labels="model"), "step 'walk': sets_labels: 'model' must be a map"),
    ],
)
def test_a_bad_step_is_refused_where_it_is_declared(
    declare: Callable[[], object], said: str
) -> None:
    with pytest.raises(InvalidWorkflow) as caught:
        declare()
    assert said in str(caught.value)


def test_a_bad_desired_label_is_refused_with_step_and_key() -> None:
    with pytest.raises(InvalidLabel) as caught:
        step(desired_worker_labels={"memory": {"value": 1, "comparator": "ABOUT"}})()
    assert "step 'walk': desired_worker_labels.memory.comparator: 'ABOUT'" in str(caught.value)


def test_labels_that_a_step_sets_are_checked_where_they_are_given() -> None:
    with pytest.raises(InvalidLabel, match=r"step 'walk': sets_labels\.model: None must be"):
        step(sets_labels={"model": None})()
    with pytest.raises(InvalidInput, match=r"from_input: 'a\[' is no JMESPath expression: .*[^:]$"):
        from_input("a[")
    with pytest.raises(InvalidInput, match="from_input: 7 must be a JMESPath expression"):
        from_input(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("lenght(x)", "there is no function lenght(); there are abs(), avg(), ceil(), "),
        ("a[?nofn(b)].{c: d}", "there is no function nofn()"),
        ("{a: {b: [x, sort_by(y, &nofn(z))]}}", "there is no function nofn()"),
        ("length(a, b)", "length() takes 1 argument, and here has 2"),
        ("a | starts_with(@)", "starts_with() takes 2 arguments, and here has 1"),
        ("merge()", "merge() takes at least 1 argument, and here has 0"),
    ],
)
def test_a_function_of_an_expression_must_be_one_and_have_its_arguments(
    expression: str, said: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_input(expression)
    assert str(caught.value).startswith(f"from_input: {expression!r}: {said}")


@pytest.mark.parametrize(
    "expression",
    [
        "merge(a, b, c)",
        'not_null(a, `{"nofn": 1}`)',
        "a[1:5:2] | sort_by(@, &length(b))[-1]",
        "nofn",
        "'nofn(a)'",
        "*.a[] || !b && c == `1`",
    ],
)
def test_an_expression_with_functions_that_there_are_is_taken(expression: str) -> None:
    assert from_input(expression).from_input == expression


def test_a_step_must_take_self_and_context() -> None:
    with pytest.raises(InvalidWorkflow, match=r"step 'walk': must take \(self, context\)"):

        @app.step()
        async def walk(self: object) -> None: ...


def test_a_generator_is_no_step() -> None:
    with pytest.raises(InvalidWorkflow, match="is a generator"):

        @app.step()
        def walk(self: object, context: Context) -> Any:
            yield 1


@pytest.mark.parametrize("decorator", ["step", "workflow"])
def test_a_decorator_without_parentheses_is_explained(decorator: str) -> None:
    with pytest.raises(InvalidWorkflow, match=rf"write @app\.{decorator}\(\) with its paren"):
        getattr(app, decorator)(Base)


def test_what_is_no_function_is_no_step() -> None:
    with pytest.raises(InvalidWorkflow, match="decorates a method of a workflow class, not 3"):
        app.step()(3)  # type: ignore[type-var]


def test_of_a_long_name_the_beginning_is_said() -> None:
    with pytest.raises(InvalidWorkflow) as caught:
        step(name="x" * 5000)()
    assert len(str(caught.value)) < 400
