"""Wrong values as error texts say them: as they were written, and not at any length."""

__all__ = ["quoted"]


def quoted(value: object, most: int = 140) -> str:
    """The value as Python writes it; of what has more than ``most`` characters the first ones."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"
