"""What is wrong with a workflow is said where it is written."""

from datetime import timedelta
from functools import wraps
from typing import Any

import pytest

from ganger import (
    Context,
    Ganger,
    InvalidWorkflow,
    WorkerLabelComparator,
)
from ganger.workflow import bind, declaration_of
from ganger_broker.codec import decode_events, encode
from ganger_broker.messages import WorkerRegistered

app = Ganger(broker_url="memory://declarations")


def declared(cls: type, **options: Any) -> Any:
    return declaration_of(Ganger(broker_url="memory://x").workflow(**options)(cls)).definition


class Base:
    @app.step()
    async def first(self, context: Context) -> None: ...


def test_a_workflow_is_named_after_its_class_and_its_steps_after_their_methods() -> None:
    class Caption:
        @app.step()
        async def Look(self, context: Context) -> None: ...  # noqa: N802 - it is lowered

    definition = declared(Caption)
    assert definition.name == "caption"
    assert [step.name for step in definition.steps] == ["look"]


def test_everything_given_is_in_the_definition() -> None:
    class Caption:
        @app.step(
            name="first",
            timeout="1m",
            retries=3,
            backoff_factor=2,
            backoff_max_seconds=30,
            jitter=0.5,
            schedule_timeout=timedelta(seconds=7),
        )
        async def a(self, context: Context) -> None: ...

        @app.step(
            parents=[a],
            desired_worker_labels={
                "model": {"value": "m", "weight": 10},
                "memory": {"value": 256, "comparator": WorkerLabelComparator.GREATER_THAN},
            },
        )
        def b(self, context: Context) -> None: ...

    definition = declared(
        Caption, name="c", on_events=["image:new"], schedule_timeout="2m", version="v2"
    )
    assert (definition.name, definition.version, definition.on_events) == ("c", "v2", ["image:new"])
    first, second = definition.steps
    assert (first.name, first.timeout, first.retries, first.schedule_timeout) == ("first", 60, 3, 7)
    assert (first.backoff_factor, first.backoff_max_seconds, first.jitter) == (2, 30, 0.5)
    assert (second.parents, second.schedule_timeout) == (["first"], 120)
    assert second.desired_worker_labels == {
        "model": {"value": "m", "comparator": "EQUAL", "required": False, "weight": 10},
        "memory": {"value": 256, "comparator": "GREATER_THAN", "required": True},
    }


def test_steps_of_base_classes_count_and_can_be_overridden() -> None:
    class Caption(Base):
        @app.step(name="first", retries=2)
        async def first(self, context: Context) -> None: ...

        @app.step(parents=["first"])
        async def second(self, context: Context) -> None: ...

    assert [(step.name, step.retries) for step in declared(Caption).steps] == [
        ("first", 2),
        ("second", 0),
    ]


def test_a_bound_step_is_called_on_its_own_object() -> None:
    class Caption:
        def __init__(self, word: str) -> None:
            self.word = word

        @app.step()
        def say(self, context: Context) -> str:
            return self.word

        @app.step()
        async def asay(self, context: Context) -> str:
            return self.word

    declared(Caption)
    bound = bind(Caption("hello"))
    assert bound["caption:say"].call(None) == "hello"
    assert {action: step.is_async for action, step in bound.items()} == {
        "caption:say": False,
        "caption:asay": True,
    }


def workflow_with(*names: str, parents: dict[str, list[str]] | None = None) -> type:
    given = parents or {}
    members = {}
    for at, name in enumerate(names):

        async def run(self: object, context: Context) -> None: ...

        members[f"m{at}"] = app.step(name=name, parents=given.get(name, ()))(run)
    return type("Walk", (), members)


@pytest.mark.parametrize(
    ("cls", "options", "said"),
    [
        (type("Walk", (), {}), {}, "workflow 'walk': has no steps"),
        (workflow_with("a"), {"name": "Ä"}, "workflow 'Ä': the name must be lower case"),
        (workflow_with("a"), {"on_events": "x"}, "workflow 'walk': on_events: 'x' must be a list"),
        (workflow_with("a"), {"version": 2}, "workflow 'walk': version: 2 must be a string"),
        (workflow_with("a"), {"version": "v" * 129}, "must be a string of at most 128"),
        (workflow_with("a"), {"schedule_timeout": "?"}, "workflow 'walk': schedule_timeout: '?'"),
        (workflow_with("a", "a"), {}, "workflow 'walk': has two steps named 'a'"),
        (workflow_with("a", parents={"a": ["b"]}), {}, "there is no step 'b'; there are a"),
        (workflow_with("a", "b", parents={"a": ["b"], "b": ["a"]}), {}, "the parents make a cycle"),
        (workflow_with("a", parents={"a": ["a"]}), {}, "the parents make a cycle: a → a"),
        (workflow_with("a"), {"sticky_on_loss": "repin"}, "'repin' is for sticky=HARD"),
        (
            workflow_with("a"),
            {"sticky": "soft", "sticky_on_loss": "repin"},
            "workflow 'walk': sticky_on_loss: 'repin' is for sticky=HARD",
        ),
    ],
)
def test_a_bad_workflow_is_refused_where_it_is_declared(
    cls: type, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidWorkflow) as caught:
        declared(cls, **options)
    assert said in str(caught.value)


@pytest.mark.parametrize("field", ["name", "version", "on_events", "sticky", "input_validator"])
def test_of_a_long_value_the_beginning_is_said(field: str) -> None:
    with pytest.raises(InvalidWorkflow) as caught:
        declared(workflow_with("a"), **{field: "x" * 5000})
    assert "'xxx" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("img *", "' ' is in no key"),
        ("img\n", "'\\n' is in no key"),
        ("img:[a", "its '[' has no ']'"),
        ("img:[]", "its '[' has no ']'"),
        ("img:[!]", "its '[' has no ']'"),
        ("img:a]", "']' is in no key"),
        ("img:[ ]", "no key has one of '[ ]'"),
        ("img:[z-a]", "no key has one of '[z-a]'"),
        ("x" * 201 + "*", "it stands for 201 bytes or more"),
        ("é" * 100 + "?", "it stands for 201 bytes or more"),
    ],
)
def test_a_pattern_that_no_event_can_match_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(InvalidWorkflow) as caught:
        declared(workflow_with("a"), on_events=["image:*", pattern])
    assert str(caught.value) == (
        f"workflow 'walk': on_events[1]: {pattern!r} can match no key: {said}; a key has 1 to 200 "
        "bytes in UTF-8, all of it printable, no space and none of * ? [ ]"
    )


@pytest.mark.parametrize(
    "pattern",
    ["*", "?", "[ab]:*", "[!a]", "[]a]", "[ a]", "[!] ]", "[a-c]?", "日" * 66 + "*?", "a-!.#"],
)
def test_a_pattern_that_an_event_can_match_is_taken(pattern: str) -> None:
    assert declared(workflow_with("a"), on_events=[pattern]).on_events == [pattern]


def test_a_failure_step_has_no_parents() -> None:
    with pytest.raises(InvalidWorkflow, match="step 'oops': parents: the step for failures has no"):
        app.on_failure_step("oops", parents=["a"])(lambda self, context: None)  # type: ignore[call-arg]


def test_a_parent_of_another_workflow_is_refused_though_there_is_one_of_that_name() -> None:
    class Other:
        @app.step(name="a")
        async def step(self, context: Context) -> None: ...

    class Walk:
        @app.step()
        async def a(self, context: Context) -> None: ...

        @app.step(parents=[Other.step])
        async def b(self, context: Context) -> None: ...

    with pytest.raises(InvalidWorkflow, match="step 'b': parents: the step 'a' that is given is n"):
        declared(Walk)


def test_a_parent_may_be_overridden_in_a_class_of_its_own() -> None:
    class Walk:
        @app.step()
        async def a(self, context: Context) -> None: ...

        @app.step(parents=[a])
        async def b(self, context: Context) -> None: ...

    class Run(Walk):
        @app.step()
        async def a(self, context: Context) -> None: ...

    definition = declared(Run)
    assert {step.name: step.parents for step in definition.steps} == {"a": [], "b": ["a"]}


def test_what_is_given_as_a_set_is_in_an_order_that_each_process_has() -> None:
    class Walk:
        @app.step()
        async def a(self, context: Context) -> None: ...

        @app.step()
        async def b(self, context: Context) -> None: ...

        @app.step(parents=[b, "a"])
        async def listed(self, context: Context) -> None: ...

        @app.step(parents={b, "listed", "a"})
        async def last(self, context: Context) -> None: ...

    names = {f"{letter}:*" for letter in "qwertyuiop"}
    crons = {f"{minute} * * * *" for minute in range(10)}
    definition = declared(Walk, on_events=names, on_crons=crons)
    parents = {step.name: step.parents for step in definition.steps}
    assert (parents["listed"], parents["last"]) == (["b", "a"], ["a", "b", "listed"])
    assert definition.on_events == sorted(names)
    assert [cron.expression for cron in definition.on_crons] == sorted(crons)


def test_two_methods_of_one_name_are_refused_whatever_the_second_is() -> None:
    class Steps:
        @app.step()
        async def a(self, context: Context) -> None: ...

        @app.step()
        async def b(self, context: Context) -> str:
            return "first"

        @app.step(parents=["a"])
        async def b(self, context: Context) -> str:  # noqa: F811
            return "second"

    class Plain(Base):
        @app.on_failure_step()
        async def b(self, context: Context) -> None: ...

        def b(self) -> None: ...  # type: ignore[no-redef] # noqa: F811

    for cls in (Steps, Plain):
        said = f"workflow 'w': the step 'b' is not in its class {cls.__qualname__} any more: some"
        with pytest.raises(InvalidWorkflow, match=said):
            declared(cls, name="w")
        with pytest.raises(InvalidWorkflow, match=said):  # nor by what comes of it
            declared(type("Sub", (cls,), {}), name="w")


def test_the_error_names_what_else_may_have_taken_a_step_s_place() -> None:
    def bare(method: Any) -> Any:
        async def call(self: object, context: Context) -> Any:
            return await method(self, context)

        return call

    class Assigned(Base):
        @app.step()
        async def b(self, context: Context) -> None: ...

        b = None  # type: ignore[assignment] # noqa: F811

    class Decorated(Base):
        @bare
        @app.step()
        async def b(self, context: Context) -> None: ...

    said = (
        r"another method of that name, an assignment below, or a decorator above .*functools\.wraps"
    )
    for cls in (Assigned, Decorated):
        with pytest.raises(InvalidWorkflow, match=said):
            declared(cls, name="w")


async def shared(self: object, context: Context) -> None: ...


def test_a_step_may_have_another_name_than_its_method_and_other_decorators_around_it() -> None:
    def loud(method: Any) -> Any:
        @wraps(method)
        async def call(self: object, context: Context) -> Any:
            return await method(self, context)

        return call

    def quick(method: Any) -> Any:
        return app.step(timeout=1)(method)

    for _ in range(2):  # the same class is written anew

        class Walk:
            @loud
            @app.step()
            async def a(self, context: Context) -> None: ...

            @quick
            async def b(self, context: Context) -> None: ...

            c = app.step("c")(shared)

        class Run(Walk):
            @app.step()
            async def a(self, context: Context) -> None: ...

            def b(self) -> None: ...  # type: ignore[override]

        assert [step.name for step in declared(Walk).steps] == ["a", "b", "c"]
        assert [step.name for step in declared(Run).steps] == ["a", "c"]


def test_a_static_step_is_refused() -> None:
    class Walk:
        @staticmethod
        @app.step()
        async def walk(self: object, context: Context) -> None: ...

    with pytest.raises(InvalidWorkflow, match="workflow 'walk': walk: a step is a plain method"):
        declared(Walk)


def test_an_app_has_one_workflow_of_a_name() -> None:
    own = Ganger(broker_url="memory://x")
    own.workflow(name="walk")(workflow_with("a"))
    with pytest.raises(InvalidWorkflow, match="workflow 'walk' is declared already"):
        own.workflow(name="walk")(workflow_with("a"))
    assert list(own.workflows) == ["walk"]


def test_what_is_not_a_workflow_cannot_be_registered() -> None:
    worker = app.worker("w")
    with pytest.raises(InvalidWorkflow, match="is not a workflow: decorate its class"):
        worker.register_workflow(object())


def test_a_workflow_class_that_needs_arguments_is_registered_as_an_object() -> None:
    class Walk:
        def __init__(self, pace: int) -> None: ...

        @app.step()
        async def walk(self, context: Context) -> None: ...

    declared(Walk)
    worker = app.worker("w")
    with pytest.raises(InvalidWorkflow, match="Walk cannot be made without arguments"):
        worker.register_workflow(Walk)
    worker.register_workflow(Walk(3))
    assert worker.workflows == ["walk"]
    with pytest.raises(InvalidWorkflow, match="has a workflow 'walk'"):
        worker.register_workflow(Walk(4))


def test_the_most_that_can_be_declared_can_be_registered() -> None:
    class Most:
        @app.step(name="n" * 128, timeout=1e9, schedule_timeout=1e9, retries=1_000_000)
        async def a(self, context: Context) -> None: ...

    definition = declared(Most, name="m" * 128, version="v" * 128)
    said = WorkerRegistered("w", "1", name="w", slots=1, workflows=[definition])
    assert decode_events(encode([said]), 10_000) == [said]


def test_a_step_for_failures_is_beside_the_others() -> None:
    class Caption(Base):
        @app.on_failure_step(retries=2, desired_worker_labels={"mail": "yes"})
        def oops(self, context: Context) -> None: ...

    definition = declared(Caption)
    assert [step.name for step in definition.steps] == ["first"]
    assert (definition.on_failure.name, definition.on_failure.retries) == ("oops", 2)
    assert set(definition.actions()) == {"caption:first", "caption:oops"} == set(bind(Caption()))


def test_there_is_one_step_for_failures_and_it_needs_another() -> None:
    class Two(Base):
        @app.on_failure_step()
        def oops(self, context: Context) -> None: ...

        @app.on_failure_step()
        def again(self, context: Context) -> None: ...

    class Same(Base):
        @app.on_failure_step(name="first")
        def oops(self, context: Context) -> None: ...

    class Parent:
        @app.on_failure_step()
        def oops(self, context: Context) -> None: ...

        @app.step(parents=["oops"])
        def after(self, context: Context) -> None: ...

    class Alone:
        @app.on_failure_step()
        def oops(self, context: Context) -> None: ...

    for cls, said in [
        (Two, "has more than one on_failure_step: 'oops' and 'again'"),
        (Same, "has two steps named 'first'"),
        (Parent, "'oops' runs when a step has failed, and is nobody's parent"),
        (Alone, "has no steps"),
    ]:
        with pytest.raises(InvalidWorkflow, match=said):
            declared(cls)
