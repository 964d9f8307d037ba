"""What is to be done about a definition that was changed on its host, and what an instance says about one."""

from __future__ import annotations

from collections.abc import Iterator

from nanovirt.controllers.world import World
from nanovirt.resources.compute_pool import ComputePool
from nanovirt.resources.conditions import Condition, condition, find
from nanovirt.resources.instance import Drift, Instance
from nanovirt.resources.metadata import ADOPTED_LABEL
from nanovirt.resources.placement import Placement, PlacementSpec
from nanovirt.resources.reasons import Reason

SAID = 3
"""So many differences stand in the message; all that are told stand in the status."""


def with_policy(spec: PlacementSpec, instance: Instance, world: World) -> PlacementSpec:
    """The Placement with the policy of the instance, or else of its pool."""
    pool = world.read(ComputePool, instance.spec.compute_pool)
    policy = instance.spec.drift or (pool.spec.drift if pool is not None else spec.drift)
    return spec if policy == spec.drift else spec.model_copy(update={"drift": policy})


def drifted(instance: Instance, placement: Placement) -> Iterator[Condition]:
    """The condition Drifted; none for an instance that never drifted."""
    generation, status = instance.metadata.generation, placement.status
    if not status.drift_count:
        if find(instance.status.conditions, "Drifted") is not None:
            yield condition("Drifted", "False", Reason.AsDefined, generation)
        return
    said = [_said(one) for one in status.drift[:SAID]]
    if status.drift_count > len(said):
        said.append(f"and {status.drift_count - len(said)} more")
    host, changes = placement.spec.host, "; ".join(said)
    if ADOPTED_LABEL in instance.metadata.labels and all(one.desired is None for one in status.drift):
        yield condition("Drifted", "True", Reason.AdoptedAsItIs, generation, host=host, changes=changes)
    else:
        params = {"host": host, "policy": placement.spec.drift, "changes": changes}
        yield condition("Drifted", "True", Reason.ChangedBehind, generation, **params)


def _said(one: Drift) -> str:
    if one.current is None:
        return f"{one.path} is gone"
    if one.desired is None:
        return f"{one.path} is there ({one.current})"
    return f"{one.path} is {one.current}, not {one.desired}"
