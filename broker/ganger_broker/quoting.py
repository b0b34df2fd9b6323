"""Wrong values as error texts say them: as they were written, and not at any length."""

__all__ = ["quoted", "shortened"]


def quoted(value: object, most: int = 140) -> str:
    """The value as Python writes it; of what has more than ``most`` characters the first ones."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def shortened(text: str, most: int = 2_000) -> str:
    """The text; of what has more than ``most`` characters the first ones and the last: a name that
    is in it may be as long as a message."""
    if len(text) <= most:
        return text
    half = (most - 3) // 2
    return f"{text[:half]} … {text[-half:]}"
