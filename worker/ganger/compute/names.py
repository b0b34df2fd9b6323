"""Names of what is deployed: readable, and short enough for what is made of them."""

from hashlib import blake2s

__all__ = ["short_name"]

MAX_NAME = 52
"""Characters. Kubernetes and KEDA make labels of at most 63 from names, by adding up to 11."""


def short_name(*parts: str) -> str:
    """The parts with ``-`` between; the end of what is too long is its digest."""
    name = "-".join(parts)
    if len(name) <= MAX_NAME:
        return name
    digest = blake2s("\0".join(parts).encode(), digest_size=4).hexdigest()
    return f"{name[: MAX_NAME - len(digest) - 1].rstrip('-')}-{digest}"
