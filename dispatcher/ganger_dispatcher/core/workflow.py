"""A workflow's definition, as the core works with it."""

from collections.abc import Mapping
from typing import Any

from ganger_broker.definitions import StepDefinition, WorkflowDefinition, action_of
from ganger_broker.labels import Condition, Requirement, merge_desired, parse_desired
from ganger_broker.pool_labels import in_pool

from .digest import digest
from .inputs import InputSchema

__all__ = ["Workflow"]


class Workflow:
    """A registered workflow, with its desired labels parsed once.

    ``steps``: all of them by name, the one for failures too. ``children``: by a step's name,
    the steps that it is a parent of. ``input``: what inputs must fit.
    """

    __slots__ = (
        *("children", "definition", "desired", "digest", "input", "on_failure"),
        *("requirements", "steps"),
    )

    def __init__(self, definition: WorkflowDefinition) -> None:
        self.definition = definition
        self.digest = digest(definition)
        self.on_failure = definition.on_failure
        schema = definition.input_schema
        self.input = None if schema is None else InputSchema(schema)
        self.steps: dict[str, StepDefinition] = {
            step.name: step for step in definition.every_step()
        }
        self.children: dict[str, list[str]] = {name: [] for name in self.steps}
        for step in definition.steps:
            for parent in dict.fromkeys(step.parents):
                self.children[parent].append(step.name)
        self.desired = {
            name: parse_desired(step.desired_worker_labels) for name, step in self.steps.items()
        }
        self.requirements = {
            name: self._requirement(name, desired) for name, desired in self.desired.items()
        }

    def requirements_over(self, desired: dict[str, Any]) -> dict[str, Requirement]:
        """Each step's requirement, a trigger's desired labels merged over by key."""
        if not desired:
            return self.requirements
        over = parse_desired(desired)
        return {
            name: self._requirement(name, merge_desired(self.desired[name], over))
            for name in self.steps
        }

    def _requirement(self, name: str, desired: Mapping[str, tuple[Condition, ...]]) -> Requirement:
        """Whatever a trigger desires, a step stays in its pool."""
        pool = self.steps[name].pool
        conditions = [condition for group in desired.values() for condition in group]
        if pool is not None:
            conditions.append(in_pool(pool))
        return Requirement.of(action_of(self.definition.name, name), conditions)
