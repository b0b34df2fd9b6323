"""State in Redis: what the core wants stored, committed at once, and read back at take-over."""

from .redis_store import RedisStore, open_redis

__all__ = ["RedisStore", "open_redis"]
