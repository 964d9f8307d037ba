"""Every command that writes sends its write again when the answer is lost, and it takes effect once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nanovirt.portal.api.repeating import InFlight
from nanovirt.portal.cli import connection as connections
from nanovirt.portal.cli.connection import Connection
from nanovirt.resources.access import Credentials
from nanovirt.resources.errors import Conflict, NanoError, StoreFailed, StoreUnreachable
from nanovirt.resources.kind import Key
from nanovirt.resources.kubeconfig import from_kubeconfig
from tests.portal.cli_world import Cluster, cluster

JSON = dict[str, Any]
POOL = """{apiVersion: nano/v1, kind: AddressPool, metadata: {name: lan}, spec: {subnet: 10.20.0.0/24,
  ranges: [{name: low, first: 10.20.0.50, last: 10.20.0.99}]}}"""
RUN = ("run", "web", "--image", "shared/mini")


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(connections, "PAUSES", (0.01, 0.05, 0.2))
    with cluster(tmp_path) as started:
        started.library()
        yield started


@contextmanager
def losing(running: Cluster, answers: int = 1) -> Iterator[None]:
    """The answers of the next writes are lost; afterwards each has come so many times more, under one key."""
    running.trap.sent.clear()
    running.trap.answers = answers
    yield
    assert len(running.trap.sent) > answers
    first = running.trap.sent[: answers + 1]
    assert len({*first}) == 1
    assert len(first[0][1]) == 36


@pytest.mark.parametrize("answers", [1, 3])
def test_run_makes_one_machine(running: Cluster, answers: int) -> None:
    with losing(running, answers):
        assert running.says(*RUN) == "instance/web created\n"
    assert [key.name for key, _ in running.store.list("instances")] == ["web"]


def test_power_and_deletion_take_effect_once(running: Cluster) -> None:
    running.says(*RUN)
    for command in (("stop", "web"), ("start", "web"), ("restart", "web")):
        before = running.object("instances", "web", "default")["metadata"]["generation"]
        with losing(running):
            running.says(*command)
        assert running.object("instances", "web", "default")["metadata"]["generation"] == before + 1, command
    running.says("apply", "-f", "-", stdin=POOL)
    with losing(running):
        assert running.says("delete", "addresspool/lan", "--no-wait") == "addresspool/lan deleted\n"


def test_a_set_is_applied_once(running: Cluster) -> None:
    with losing(running):
        assert running.says("apply", "-f", "-", stdin=POOL) == "addresspool/lan created\n"


def test_a_host_is_added_once(running: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "node.json"
    with losing(running):
        running.says("host", "add", "node-9", "--data", str(running.data), "-o", str(file))
    assert [key.name for key, _ in running.store.list("hosts")] == ["node-9"]
    assert file.is_file()


def test_an_object_is_given_away_once(running: Cluster) -> None:
    running.creates("users", "alice")
    running.says(*RUN)
    before = running.store.committed
    with losing(running):
        assert running.says("chown", "instance/web", "alice") == "instance/web belongs to alice\n"
    assert running.store.committed == before + 1
    assert running.object("instances", "web", "default")["metadata"]["labels"]["nano/owner"] == "alice"


def test_one_token_is_made_and_the_one_that_is_told_is_good(running: Cluster) -> None:
    running.creates("users", "alice")
    with losing(running, 2):
        token = running.says("token", "create", "alice").strip()
    (_,) = running.store.list("credentials")
    authority = from_kubeconfig(running.kubeconfig).ca_pem
    hers = Connection(Credentials(running.url, authority, token), print)
    assert len(hers.get("/apis/nano/v1/users/alice/token")["items"]) == 1
    hers.close()


def test_a_write_whose_outcome_stays_unknown_says_how_to_ask(running: Cluster) -> None:
    running.trap.answers = 4
    result = running.nanoctl(*RUN)
    assert result.exit_code == 1
    where = result.stderr.partition("kubectl get --raw ")[2].partition("`")[0]
    assert where.startswith("/apis/nano/v1/transactions/"), result.stderr
    connection = connections.connect(str(running.kubeconfig), None)
    rev = running.store.get(Key("instances", "default", "web")).rev
    assert connection.get(where)["metadata"]["resourceVersion"] == str(rev)
    connection.close()


def test_a_write_that_never_went_out_says_so_at_once(tmp_path: Path) -> None:
    with cluster(tmp_path) as started:
        connection = connections.connect(str(started.kubeconfig), None)
    with pytest.raises(StoreUnreachable) as caught:
        connection.write("POST", "/apis/nano/v1/hosts", {})
    assert "nothing listens" in str(caught.value)
    assert "not known" not in str(caught.value)


def test_a_write_that_is_under_way_is_asked_after_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(connections, "PAUSES", (0, 0, 0))
    sent: list[str] = []

    def ask(_self: Connection, _method: str, _path: str, doc: Any, *, content_type: str, key: str) -> JSON:
        del content_type
        sent.append(key)
        if len(sent) < 3:
            raise InFlight(key)
        return {"results": [doc]}

    monkeypatch.setattr(Connection, "ask", ask)
    with cluster(tmp_path) as started:
        connection = connections.connect(str(started.kubeconfig), None)
    assert connection.write("POST", "/apis/nano/v1/transactions", {"a": 1}) == {"results": [{"a": 1}]}
    assert len({*sent}) == 1


@pytest.mark.parametrize(
    ("refused", "known"), [(Conflict("instances", "web"), True), (StoreFailed("the disk failed"), False)]
)
def test_what_the_server_refuses_is_sent_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: NanoError, *, known: bool
) -> None:
    sent: list[str] = []

    def ask(_self: Connection, *_: Any, key: str, **__: Any) -> JSON:
        sent.append(key)
        raise refused

    monkeypatch.setattr(Connection, "ask", ask)
    with cluster(tmp_path) as started:
        connection = connections.connect(str(started.kubeconfig), None)
    with pytest.raises(type(refused)) as caught:
        connection.write("PATCH", "/apis/nano/v1/hosts/a", {})
    (key,) = sent
    assert (key in str(caught.value)) == (not known)
