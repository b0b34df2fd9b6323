"""What others wrote, made safe to show: a terminal obeys control characters from anywhere.

Labels, inputs, reasons, exceptions and log lines come from whoever may publish; printed as they
are they could clear an operator's screen, or show what is not so.
"""

import re

__all__ = ["visible", "visible_json"]

_CONTROLS = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # all but tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # these turn the order of letters round
    "\ud800-\udfff"  # half a pair, which cannot be written at all
    "]"
)


def visible(text: str) -> str:
    r"""The text with each control character as its escape, such as ``\x1b``; lines stay lines."""
    return _CONTROLS.sub(_escape, text)


def visible_json(text: str) -> str:
    r"""JSON that means the same, with each control character as its escape, such as ``\u009b``."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
