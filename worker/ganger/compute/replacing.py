"""Pools that take the place of others: whether both may be there for a while.

A dispatcher refuses a worker whose definition of a workflow differs from a live worker's under the
same version. So replicas of a new pool can register beside those of the one that it replaces only
where the workflows with steps there have new versions; else the old ones have to drain first.
What counts is what the replicas that are there were started with: what was deployed since may
never have come up.
"""

from collections.abc import Iterable

from ganger_broker.deployments import Deployment, Launch, PoolRecord, ReplicaRecord, ReplicaState

__all__ = ["launch_of", "may_stay", "same_versions"]


def launch_of(deployment: Deployment, pool: str) -> Launch:
    """What replicas of this pool are started with now."""
    record, versions = deployment.pools[pool], deployment.versions
    known = {name: versions[name] for name in _workflows(record) if name in versions}
    return Launch(deployment.target, deployment.folder, deployment.slots, record, known)


def may_stay(there: ReplicaRecord, deployment: Deployment) -> bool:
    """Whether a replica of a pool that is no more keeps none of the others from registering, and
    has done work: where that is not sure, it may not."""
    launch = there.launch
    if launch is None or not there.served or launch.versions.keys() != _workflows(launch.pool):
        return False
    return not _in_the_way(launch, deployment)


def same_versions(made: Deployment, there: Iterable[ReplicaRecord]) -> list[str]:
    """A word to those who give steps other machines and leave their workflow its version, for
    each such workflow. ``there``: the replicas."""
    if made.on != "local":
        return []
    running = [(each.pool, each.launch) for each in there if each.state is ReplicaState.RUNNING]
    staying: dict[str, set[str]] = {}
    going: set[str] = set()
    for pool, launch in running:
        for workflow in [] if launch is None else _in_the_way(launch, made):
            if pool in made.pools:
                staying.setdefault(workflow, set()).add(pool)
            else:
                going.add(workflow)
    return [_told(workflow, sorted(staying.get(workflow, ()))) for workflow in sorted(going)]


def _told(workflow: str, staying: Iterable[str]) -> str:
    stay = ", ".join(staying)
    what = f"workflow {workflow!r} has other machines and the version that it had"
    if stay:
        return (
            f"{what}: replicas of {stay} stay, and keep new ones from registering with another "
            "definition; give it a version of its own (version=…), or take the deployment down "
            "first"
        )
    return (
        f"{what}: replicas of its old ones drain before new ones can register; with a version of "
        "its own (version=…) they stay until those are there"
    )


def _in_the_way(launch: Launch, deployment: Deployment) -> list[str]:
    """The workflows that the deployment has under the version that this has."""
    versions = deployment.versions
    return [name for name, version in launch.versions.items() if versions.get(name) == version]


def _workflows(pool: PoolRecord) -> set[str]:
    """Those with steps in it."""
    return {action.partition(":")[0] for action in pool.actions}
