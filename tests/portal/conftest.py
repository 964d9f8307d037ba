"""What the tests of several commands of nanoctl share."""

from collections.abc import Iterator

import pytest

from tests.portal.cli_world import Cluster, cluster


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The real API with a pool for machines and an image, one for each module."""
    with cluster(tmp_path_factory.mktemp("cli")) as made:
        made.creates("computepools", "default", spec={"storagePool": "local"})
        made.library()
        yield made
