"""Exchanges: from a routing key to the queues bound for it."""

from ganger_broker.topology import Exchange

__all__ = ["MemoryExchange", "topic_matches"]


class MemoryExchange:
    """One exchange with its bindings."""

    def __init__(self, declared: Exchange) -> None:
        self.declared = declared
        self._bindings: dict[tuple[str, str], None] = {}
        self._routes: dict[str, list[str]] = {}

    def bind(self, queue: str, key: str) -> None:
        """Messages whose key matches go to this queue."""
        self._bindings[queue, key] = None
        self._routes.clear()

    def unbind(self, queue: str) -> None:
        """Drop all bindings of a queue."""
        self._bindings = {bound: None for bound in self._bindings if bound[0] != queue}
        self._routes.clear()

    def route(self, key: str) -> list[str]:
        """The queues for a routing key, each once."""
        found = self._routes.get(key)
        if found is None:
            if len(self._routes) >= 10_000:  # keys may be as many as runs
                self._routes.clear()
            found = self._routes[key] = self._match(key)
        return found

    def _match(self, key: str) -> list[str]:
        match self.declared.kind:
            case "fanout":
                hits = [queue for queue, _ in self._bindings]
            case "direct":
                hits = [queue for queue, bound in self._bindings if bound == key]
            case "topic":
                words = _words(key)
                hits = [
                    queue for queue, bound in self._bindings if topic_matches(_words(bound), words)
                ]
        return list(dict.fromkeys(hits))


def topic_matches(pattern: list[str], words: list[str]) -> bool:
    """Whether a topic pattern matches: ``*`` is one word, ``#`` any number, also none."""
    if not pattern:
        return not words
    head, *rest = pattern
    if head == "#":
        return any(topic_matches(rest, words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and head in ("*", words[0]) and topic_matches(rest, words[1:])


def _words(key: str) -> list[str]:
    """RabbitMQ takes an empty key for no words, not for one empty word."""
    return key.split(".") if key else []
