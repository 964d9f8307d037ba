"""Stories of an agent of a simulated host, told in virtual time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any

from tests.agent.placements import placement
from tests.simulation.cluster import Cluster, cluster
from tests.simulation.virtual_time import run_virtually

KEY = placement().key


Story = Callable[[Cluster], Coroutine[Any, Any, None]]


def in_cluster(story: Story) -> Callable[[], None]:
    """A test that is given a running cluster."""

    async def told() -> None:
        async with cluster() as made:
            await story(made)

    @functools.wraps(story, assigned=("__name__", "__doc__", "__module__"), updated=())
    def test() -> None:
        run_virtually(told())

    del test.__wrapped__  # else pytest looks for a fixture `made`
    return test


async def running(made: Cluster, **changes: Any) -> None:
    made.agent()
    await made.put(placement(**changes))
    await made.until_state(KEY, "Running")
