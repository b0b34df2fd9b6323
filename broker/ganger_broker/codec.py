"""Bytes to typed messages and back.

Bodies are MessagePack (``application/msgpack``); what programs send may also be JSON
(``application/json``). msgpack unpacks with every size limit set, msgspec validates
into the structs of ``ganger_broker.messages``, and what is wrong raises an
``InvalidMessage`` whose text names the field, such as ``$.priority``.
"""

from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple, TypeVar

import msgpack
import msgspec
from msgpack.exceptions import StackError

from .definitions import WorkflowDefinition
from .errors import InvalidInput, MalformedMessage, OversizedMessage
from .fields import PATTERN_WORDS
from .json_faults import json_fault
from .labels import check_labels, parse_desired
from .messages import (
    CancelRun,
    Event,
    LabelsChanged,
    PushEvent,
    RunResult,
    StepFinished,
    StreamItem,
    Trigger,
    WorkerRegistered,
)
from .plain_values import plain
from .repeated_keys import repeated_key
from .schedules import ScheduleList, ScheduleRuns, Unschedule, check_times
from .to_worker import ToWorker

__all__ = [
    "JSON",
    "MSGPACK",
    "BadEvent",
    "decode_cancel",
    "decode_each_event",
    "decode_events",
    "decode_push",
    "decode_reply",
    "decode_schedule",
    "decode_schedules",
    "decode_to_worker",
    "decode_trigger",
    "decode_unschedule",
    "encode",
    "encode_event",
    "kind_of",
    "to_json",
]

MSGPACK = "application/msgpack"
JSON = "application/json"

T = TypeVar("T")

_pack = msgpack.Packer(autoreset=True).pack


def encode(message: Any, content_type: str = MSGPACK) -> bytes:
    """Pack a message struct, or a list of them.

    Raises:
        MalformedMessage: it holds a value that cannot be packed, such as a whole number
            beyond 64 bits or an object of the user's own.
    """
    try:
        if content_type == JSON:
            return msgspec.json.encode(message)
        packed: bytes = _pack(msgspec.to_builtins(message, builtin_types=(bytes,)))
        return packed
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise MalformedMessage(f"cannot be packed: {exc}") from exc


def to_json(value: Any) -> str:
    """A value as JSON text, the way Redis hashes hold it."""
    return msgspec.json.encode(value).decode()


def decode_trigger(body: bytes, content_type: str | None, limit: int) -> Trigger:
    """A trigger from a program, MessagePack or JSON, desired labels checked as well.

    ``content_type`` None or empty means: JSON if it begins with ``{``, else MessagePack.
    """
    trigger = _decode(body, content_type, Trigger, limit)
    _check(parse_desired, trigger.desired_worker_labels, "$.desired_worker_labels")
    _check(plain, trigger.input, "$.input")
    _check(plain, trigger.metadata, "$.metadata")
    return trigger


def decode_push(body: bytes, content_type: str | None, limit: int) -> PushEvent:
    """An event from a program, MessagePack or JSON, desired labels checked as well."""
    event = _decode(body, content_type, PushEvent, limit)
    _check(parse_desired, event.desired_worker_labels, "$.desired_worker_labels")
    _check(plain, event.payload, "$.payload")
    _check(plain, event.metadata, "$.metadata")
    return event


def decode_schedule(body: bytes, content_type: str | None, limit: int) -> ScheduleRuns:
    """A request for runs at some times, from a program."""
    request = _decode(body, content_type, ScheduleRuns, limit)
    _check(check_times, request.at, "$.at")
    _check(parse_desired, request.desired_worker_labels, "$.desired_worker_labels")
    _check(plain, request.input, "$.input")
    _check(plain, request.metadata, "$.metadata")
    size = len(encode([request.input, request.metadata, request.desired_worker_labels], JSON))
    if size * len(request.at) > limit:
        raise MalformedMessage(
            f"$.at: {len(request.at)} times of an input of {size} bytes are over {limit} bytes; "
            "ask for fewer at once, or keep large data elsewhere"
        )
    return request


def decode_unschedule(body: bytes, content_type: str | None, limit: int) -> Unschedule:
    """A request to delete a schedule, from a program."""
    return _decode(body, content_type, Unschedule, limit)


def decode_schedules(body: bytes, content_type: str | None, limit: int) -> ScheduleList:
    """What the dispatcher answers about schedules."""
    return _decode(body, content_type, ScheduleList, limit)


def decode_cancel(body: bytes, content_type: str | None, limit: int) -> CancelRun:
    """A request to cancel a run, from a program."""
    return _decode(body, content_type, CancelRun, limit)


def encode_event(event: Event) -> bytes:
    """Pack one event, checked as the dispatcher checks it: what it would refuse is not sent.

    Raises:
        MalformedMessage: it is none; the text names the field.
    """
    try:
        form = msgspec.to_builtins(event, builtin_types=(bytes,))
        msgspec.convert(form, Event)
        packed: bytes = _pack(form)
        return packed
    except msgspec.ValidationError as exc:
        raise MalformedMessage(_named(str(exc))) from exc
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise MalformedMessage(f"cannot be packed: {exc}") from exc


class BadEvent(NamedTuple):
    """An event that cannot be taken: what it was, and why not."""

    given: Any
    error: MalformedMessage

    @property
    def body(self) -> bytes:
        """A body that holds nothing else."""
        return encode([self.given])

    @property
    def registers(self) -> bool:
        """Whether its worker wanted to register with it."""
        return isinstance(self.given, dict) and self.given.get("type") == "worker_registered"


def decode_events(body: bytes, limit: int) -> list[Event]:
    """A worker's list of events, the definitions in it checked as well.

    Raises:
        InvalidMessage: one of them, or the list, is wrong.
    """
    events = []
    for event in decode_each_event(body, limit):
        if isinstance(event, BadEvent):
            raise event.error
        events.append(event)
    return events


def decode_each_event(body: bytes, limit: int) -> list[Event | BadEvent]:
    """The same, each event for itself: a bad one costs none of those that came with it.

    Raises:
        InvalidMessage: it is no list.
    """
    given = _decode(body, MSGPACK, list[Any], limit)
    return [_event(each, f"$[{index}]") for index, each in enumerate(given)]


def _event(given: Any, place: str) -> Event | BadEvent:
    try:
        event: Event = msgspec.convert(given, Event)
        _check_event(event, place)
    except msgspec.ValidationError as exc:
        return BadEvent(given, MalformedMessage(_named(str(exc), place)))
    except MalformedMessage as exc:
        return BadEvent(given, exc)
    except RecursionError:
        return BadEvent(given, MalformedMessage(f"{place}: is nested too deeply"))
    return event


def _check_event(event: Event, place: str) -> None:
    if isinstance(event, LabelsChanged):
        _check(check_labels, event.upsert, f"{place}.upsert")
    elif isinstance(event, WorkerRegistered):
        _check(check_labels, event.labels, f"{place}.labels")
        for nth, workflow in enumerate(event.workflows):
            _check_definition(workflow, f"{place}.workflows[{nth}]")
    elif isinstance(event, StepFinished):
        _check(plain, event.output, f"{place}.output")


def decode_to_worker(body: bytes, limit: int) -> ToWorker:
    """An assignment or a word to a worker, from the dispatcher."""
    return _decode(body, MSGPACK, ToWorker, limit)  # type: ignore[arg-type]


def decode_reply(body: bytes, content_type: str | None, limit: int) -> RunResult | StreamItem:
    """What comes to a trigger's ``reply_to``: the run's result, or before it a stream's item."""
    reply = _decode(body, content_type, dict[str, Any], limit)
    try:
        if reply.get("type") == "stream_item":
            return msgspec.convert(reply, StreamItem)
        return msgspec.convert(reply, RunResult)
    except msgspec.ValidationError as exc:
        raise MalformedMessage(_named(str(exc))) from exc


def kind_of(content_type: str | None, body: bytes) -> str:
    """The content type without its parameters; without one, JSON if it begins with ``{``."""
    if not content_type:
        return JSON if body.lstrip()[:1] == b"{" else MSGPACK
    return content_type.split(";")[0].strip().lower()


def _check(check: Callable[[Any, str], object], given: Any, place: str) -> None:
    if not given:
        return
    try:
        check(given, place)
    except InvalidInput as exc:
        raise MalformedMessage(str(exc)) from exc


def _check_definition(workflow: WorkflowDefinition, place: str) -> None:
    names = [step.name for step in workflow.steps]
    if len(set(workflow.actions())) < len(workflow.actions()):
        raise MalformedMessage(f"{place}.steps: two steps have the same name")
    if workflow.on_failure is not None:
        inside = f"{place}.on_failure"
        desired = workflow.on_failure.desired_worker_labels
        _check(parse_desired, desired, f"{inside}.desired_worker_labels")
        if workflow.on_failure.parents:
            raise MalformedMessage(f"{inside}.parents: it has none")
    for at, cron in enumerate(workflow.on_crons):
        inside = f"{place}.on_crons[{at}]"
        _check(parse_desired, cron.desired_worker_labels, f"{inside}.desired_worker_labels")
        _check(plain, cron.input, f"{inside}.input")
        _check(plain, cron.metadata, f"{inside}.metadata")
    for at, step in enumerate(workflow.steps):
        inside = f"{place}.steps[{at}]"
        _check(parse_desired, step.desired_worker_labels, f"{inside}.desired_worker_labels")
        for parent in step.parents:
            if parent not in names:
                raise MalformedMessage(f"{inside}.parents: {parent!r} is no step of it")
    try:
        TopologicalSorter({step.name: step.parents for step in workflow.steps}).prepare()
    except CycleError as exc:
        raise MalformedMessage(f"{place}.steps: parents form a cycle: {exc.args[1]}") from exc


def _decode(body: bytes, content_type: str | None, type_: type[T], limit: int) -> T:
    if len(body) > limit:
        raise OversizedMessage(f"the body has {len(body)} bytes, at most {limit} are taken")
    kind = kind_of(content_type, body)
    try:
        if kind == JSON:
            message = msgspec.json.decode(body, type=type_)
            _check_repeated(body)
            return message
        if kind == MSGPACK:
            return msgspec.convert(_unpack(body), type_)
    except msgspec.ValidationError as exc:
        raise MalformedMessage(_named(str(exc))) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MalformedMessage(f"$: {json_fault(body, exc)}") from exc
    except (RecursionError, StackError) as exc:
        raise MalformedMessage("$: is nested too deeply") from exc
    raise MalformedMessage(f"content_type {content_type!r} is not taken, only {MSGPACK} and {JSON}")


def _check_repeated(body: bytes) -> None:
    """In MessagePack, which programs do not write by hand, nobody looks for them."""
    twice = repeated_key(body.decode())
    if twice is not None:
        raise MalformedMessage(f"${twice}: given twice in one object")


def _unpack(body: bytes) -> Any:
    size = len(body)
    try:
        return msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            max_str_len=size,
            max_bin_len=size,
            max_array_len=size,
            max_map_len=size,
            max_ext_len=0,
        )
    except StackError:
        raise  # nested too deeply, which has a word of its own
    except (msgpack.UnpackException, ValueError, TypeError) as exc:
        raise MalformedMessage(
            f"$: is not valid {MSGPACK}: {str(exc) or type(exc).__name__}"
        ) from exc


def _named(text: str, root: str = "$") -> str:
    """msgspec writes ``… - at `$.field```; put the field first, as all our errors do, and
    say in words what a pattern says."""
    for pattern, words in PATTERN_WORDS.items():
        text = text.replace(f"`str` matching regex {pattern!r}", words)
    message, found, place = text.rpartition(" - at `")
    if not found:
        message, found, place = text.rpartition(" - at ")  # - at key in `$.input`
    place = place.replace("`", "").replace("$", root, 1)
    if place.endswith(".priority"):
        message = f"{message}; it is 1, 2 or 3, and 3 goes first"
    return f"{place}: {message}" if found else f"{root}: {text}"
