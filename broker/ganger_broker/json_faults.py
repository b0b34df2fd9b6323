"""What is wrong with a text that is no JSON, where msgspec's word for it misleads."""

import re

__all__ = ["json_fault"]

_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\.",
    re.DOTALL,
)


def json_fault(text: bytes | str, exc: Exception) -> str:
    """What to say of ``exc``, with which the decoder refused the text.

    Near the end of a text it takes half a surrogate pair for the end of the data; and it counts
    the bytes to one that is no UTF-8 from the beginning of the string that it is in.
    """
    if isinstance(exc, UnicodeDecodeError) and isinstance(text, bytes):
        try:
            text.decode()
        except UnicodeDecodeError as whole:
            exc = whole
    said = str(exc)
    if "truncated" not in said and "surrogate" not in said:
        return said
    body = text.encode(errors="replace") if isinstance(text, str) else text
    half = next((found for found in _ESCAPES.finditer(body) if found[1]), None)
    if half is None:
        return said
    return (
        f"{half[1].decode()} (byte {half.start()}) is half of a surrogate pair and no character; "
        "its other half must be beside it"
    )
