"""What most tests of the controllers begin with."""

import pytest

from tests.controllers.universe import Universe


@pytest.fixture
def one() -> Universe:
    """One host and one ready image, and what follows from them has settled."""
    universe = Universe()
    universe.image()
    universe.host("node-1")
    universe.settle()
    return universe
