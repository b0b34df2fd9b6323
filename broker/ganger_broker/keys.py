"""Names of every Redis key. What each holds is in ``docs/redis.md``."""

from dataclasses import dataclass

__all__ = ["Keys"]


@dataclass(frozen=True)
class Keys:
    """The keys of one deployment; ``prefix`` is ``GANGER_PREFIX``."""

    prefix: str = "ganger"

    @property
    def workers(self) -> str:
        """zset: worker id → last heartbeat, ms."""
        return f"{self.prefix}:workers"

    def worker(self, worker: str) -> str:
        """hash: one worker's state."""
        return f"{self.prefix}:worker:{worker}"

    def labels(self, worker: str) -> str:
        """hash: label key → JSON value."""
        return f"{self.prefix}:worker:{worker}:labels"

    def attempts(self, worker: str) -> str:
        """set: attempts the worker holds."""
        return f"{self.prefix}:worker:{worker}:attempts"

    @property
    def workflows(self) -> str:
        """set: names of the registered workflows."""
        return f"{self.prefix}:workflows"

    def workflow(self, name: str) -> str:
        """hash: version and definition of a workflow."""
        return f"{self.prefix}:workflow:{name}"

    @property
    def runs(self) -> str:
        """zset: run id → created, ms."""
        return f"{self.prefix}:runs"

    @property
    def active(self) -> str:
        """set: ids of the runs that have not ended."""
        return f"{self.prefix}:runs:active"

    @property
    def finished(self) -> str:
        """zset: run id → ended, ms; what retention goes by."""
        return f"{self.prefix}:runs:finished"

    def run(self, run_id: str) -> str:
        """hash: one run, with one field a step."""
        return f"{self.prefix}:run:{run_id}"

    def log(self, run_id: str) -> str:
        """list, capped: the newest lines that the run's steps have logged, JSON."""
        return f"{self.prefix}:log:{run_id}"  # not below the run's key: ids may have colons

    @property
    def pending(self) -> str:
        """zset: step run → schedule deadline, ms."""
        return f"{self.prefix}:pending"

    @property
    def held(self) -> str:
        """hash: run id → trigger (JSON) that waits for its workflow to be registered."""
        return f"{self.prefix}:held"

    @property
    def outbox(self) -> str:
        """hash: answers and dead letters (JSON) that were not confirmed by the broker yet."""
        return f"{self.prefix}:outbox"

    @property
    def schedules(self) -> str:
        """hash: schedule id → the schedule with its next tick (JSON)."""
        return f"{self.prefix}:schedules"

    @property
    def rates(self) -> str:
        """hash: key of a rate limit → the limit, and the units given lately (JSON)."""
        return f"{self.prefix}:rates"

    @property
    def pools(self) -> str:
        """hash: pool → its load, and the replicas that it wants (JSON)."""
        return f"{self.prefix}:pools"

    @property
    def deployments(self) -> str:
        """hash: name of a deployment → what is deployed, and how (JSON)."""
        return f"{self.prefix}:deployments"

    def deployment(self, name: str) -> str:
        """hash: who keeps a local deployment, and its replicas (JSON)."""
        return f"{self.prefix}:deployment:{name}"

    @property
    def leader(self) -> str:
        """hash: dispatcher id, epoch and lease end of the leader."""
        return f"{self.prefix}:leader"

    @property
    def feed(self) -> str:
        """stream, capped: what happened, for monitors."""
        return f"{self.prefix}:feed"

    @property
    def stats(self) -> str:
        """hash: counters."""
        return f"{self.prefix}:stats"
