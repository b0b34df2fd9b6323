"""Deliveries and confirms straight from a channel's frames.

The driver makes a task of every delivery and a future of every publish, each kept in three
sets. A channel whose only use is to consume, or to publish, needs none of that; its methods
for these frames are replaced by the ones here (aiormq 7: ``_on_deliver_frame``,
``_on_confirm_frame``, ``_on_return_frame``).
"""

from collections.abc import Callable

from aiormq import Channel, spec
from aiormq.abc import DeliveredMessage
from pamqp.header import ContentHeader

__all__ = ["on_confirms", "on_deliveries"]

Confirm = spec.Basic.Ack | spec.Basic.Nack


def on_deliveries(channel: Channel, on_message: Callable[[DeliveredMessage], None]) -> None:
    """Call ``on_message`` with what the channel's one consumer gets, in order."""

    async def deliver(frame: spec.Basic.Deliver) -> None:
        on_message(await _content(channel, frame))

    _replace(channel, "_on_deliver_frame", deliver)


def on_confirms(
    channel: Channel,
    on_confirm: Callable[[Confirm], None],
    on_return: Callable[[str | None], None],
) -> None:
    """Call ``on_confirm`` with the server's word on messages by their delivery tags, and
    ``on_return`` with the id of one that no queue took; in order."""

    async def confirm(frame: Confirm) -> None:
        on_confirm(frame)

    async def returned(frame: spec.Basic.Return) -> None:
        message = await _content(channel, frame)
        on_return(message.header.properties.message_id)

    _replace(channel, "_on_confirm_frame", confirm)
    _replace(channel, "_on_return_frame", returned)


async def _content(
    channel: Channel, frame: spec.Basic.Deliver | spec.Basic.Return
) -> DeliveredMessage:
    header = await channel._get_frame()
    if not isinstance(header, ContentHeader):
        raise ValueError(f"{header!r} came where the header of {frame!r} was expected")
    return await channel._read_content(frame, header)


def _replace(channel: Channel, method: str, by: Callable[..., object]) -> None:
    if not hasattr(channel, method):  # the driver changed; better loudly now than deaf
        raise RuntimeError(f"aiormq's Channel has no {method}: this version is not supported")
    setattr(channel, method, by)
