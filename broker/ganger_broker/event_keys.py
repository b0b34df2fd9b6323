"""What the key of an event may be."""

import re

from .errors import InvalidInput
from .fields import EVENT_KEY_PATTERN, MAX_EVENT_KEY

__all__ = ["check_event_key"]


def check_event_key(key: object, place: str) -> None:
    """See that it is an event's key.

    Raises:
        InvalidInput: it is not; the text begins with ``place``.
    """
    if isinstance(key, str) and re.fullmatch(EVENT_KEY_PATTERN, key):
        size = len(key.encode(errors="surrogatepass"))
        if size <= MAX_EVENT_KEY and key.isprintable():
            return
    raise InvalidInput(
        f"{place}: {key!r} must have 1 to {MAX_EVENT_KEY} bytes in UTF-8, all of it printable, no "
        "space and none of * ? [ ]"
    )
