"""Models in inputs and outputs come back as they were."""

from typing import Annotated, Any

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    RootModel,
    SecretBytes,
    SecretStr,
    computed_field,
    field_serializer,
)
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass

from ganger import Context, Ganger, InvalidInput, RunFailed
from ganger_broker.plain_values import plain

PATIENCE = 20.0


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")
    first_name: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> str:
        return self.first_name * 2


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class ByName(BaseModel):
    model_config = ConfigDict(validate_by_alias=False, validate_by_name=True)
    a: int = Field(alias="A")


@dataclass
class Dataclass:
    count: Annotated[int, Field(alias="howMany")]


class Camels(RootModel[list[Camel]]): ...


ADA = Camel(firstName="Ada")


@pytest.mark.parametrize(
    ("kind", "value", "stored"),
    [
        (Camel, ADA, {"firstName": "Ada"}),
        (list[Camel], [ADA], [{"firstName": "Ada"}]),
        (tuple[Camel, int], (ADA, 1), [{"firstName": "Ada"}, 1]),
        (dict[str, Camel], {"k": ADA}, {"k": {"firstName": "Ada"}}),
        (Camel | None, ADA, {"firstName": "Ada"}),
        (Camels, Camels([ADA]), [{"firstName": "Ada"}]),
        (Dataclass, Dataclass(howMany=1), {"howMany": 1}),
        (Json[list[int]], "[1]", "[1]"),
        (Annotated[int, Field(validation_alias="in", serialization_alias="out")], 1, None),
        (Annotated[int, Field(validation_alias=AliasChoices(AliasPath("y", 0), "yy"))], 1, None),
        (Annotated[int, Field(serialization_alias="out")], 1, None),
    ],
)
def test_a_model_is_read_again_from_what_it_is_sent_as(kind: Any, value: Any, stored: Any) -> None:
    class Model(BaseModel):
        x: kind

    read_by = next((name for name in ("in", "yy", "x") if name in _schema_names(Model)), "x")
    model = Model.model_validate({read_by: value})
    sent = plain(model)
    assert Model.model_validate(sent) == model
    if stored is not None:
        assert sent == {"x": stored}


def _schema_names(model: type[BaseModel]) -> Any:
    field = model.model_fields["x"].validation_alias
    return getattr(field, "choices", [field])


def test_what_a_model_lets_come_with_it_and_what_it_reads_by_name() -> None:
    assert plain(Open.model_validate({"z": [ADA]})) == {"z": [{"firstName": "Ada"}]}
    assert plain(ByName(a=1)) == {"a": 1}


class Login(BaseModel):
    pw: SecretStr | SecretBytes


class Told(Login):
    @field_serializer("pw")
    def told(self, secret: SecretStr) -> str:
        return secret.get_secret_value()


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (Login(pw=SecretStr("x")), "input.pw"),
        (Login(pw=SecretBytes(b"x")), "input.pw"),
        ({"a": [Login(pw=SecretStr("x"))]}, r"input\.a\[0\].pw"),
    ],
)
def test_a_secret_is_not_sent_as_stars(value: Any, where: str) -> None:
    with pytest.raises(InvalidInput, match=rf"{where}: is a secret"):
        plain(value, "input")


def test_a_secret_that_its_serializer_tells_is_sent() -> None:
    assert plain(Told(pw=SecretStr("x"))) == {"pw": "x"}
    assert plain(Login(pw=SecretStr(""))) == {"pw": ""}


# ── on their way ──────────────────────────────────────────────────────────────────────


class Bill(BaseModel):
    total: float = Field(alias="totalPrice")


async def test_aliases_go_from_program_to_step_to_step_and_back(app: Ganger) -> None:
    @app.task(input_validator=Camel)
    async def greet(input: Camel, context: Context) -> Bill:
        assert input == ADA
        return Bill(totalPrice=2)

    @app.workflow(input_validator=Camel)
    class Shop:
        @app.step(desired_worker_labels={"gpu": 1})
        async def price(self, context: Context) -> Bill:
            return Bill(totalPrice=len(context.workflow_input().first_name))

        @app.step(parents=["price"])
        async def tell(self, context: Context) -> float:
            total: float = context.step_output("price").total
            return total

    cold, warm = app.worker("cold"), app.worker("warm", labels={"gpu": 1})
    for worker in (cold, warm):
        worker.register_workflow(greet)
        worker.register_workflow(Shop())
    async with cold, warm:
        try:
            assert await greet.aio_run(ADA, timeout=PATIENCE) == Bill(totalPrice=2)
            run = await app.admin.aio.run_workflow(Shop, ADA)
            assert await run.result(PATIENCE) == {"price": {"totalPrice": 3.0}, "tell": 3.0}
        finally:
            await app.admin.aio.close()


async def test_what_could_not_be_read_again_fails_where_it_is_returned(app: Ganger) -> None:
    class Odd(BaseModel):
        at: int

        @field_serializer("at")
        def told(self, at: int) -> str:
            return f"at {at}"

    @app.task()
    async def odd(input: Any, context: Context) -> Odd:
        return Odd(at=1)

    worker = app.worker("w")
    worker.register_workflow(odd)
    async with worker:
        try:
            said = r"odd:odd returned: \$\.at: .* \(where it is read again"
            with pytest.raises(RunFailed, match=said):
                await odd.aio_run(timeout=PATIENCE)
        finally:
            await app.admin.aio.close()
