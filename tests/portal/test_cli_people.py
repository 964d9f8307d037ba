"""`nanoctl token`, `chown` and `kubeconfig --user`: from a manifest to somebody who works with kubectl's own file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nanovirt.portal.cli.people import Lifetime
from tests.portal.cli_world import Cluster, cluster

TEAM = """
{apiVersion: v1, kind: Namespace, metadata: {name: team-a}}
---
{apiVersion: nano/v1, kind: User, metadata: {name: alice}}
---
{apiVersion: nano/v1, kind: User, metadata: {name: bob}}
---
{apiVersion: nano/v1, kind: Role, metadata: {name: keeper}, spec: {rules: [
  {kinds: [secrets], verbs: [get, list, watch, create, patch, delete]}]}}
---
{apiVersion: nano/v1, kind: Group, metadata: {name: team}, spec: {
  members: [alice, bob], roles: [keeper], namespaces: [team-a]}}
"""
SECRET = "{apiVersion: nano/v1, kind: Secret, metadata: {name: s}, spec: {data: {password: hunter2}}}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("data")) as started:
        started.says("apply", "-f", "-", stdin=TEAM)
        yield started


def access(running: Cluster, folder: Path, user: str) -> str:
    """A kubeconfig file of that user."""
    file = folder / f"{user}.kubeconfig"
    file.write_text(running.says("kubeconfig", "--user", user, "--expires", "1d", "-n", "team-a"))
    return str(file)


def test_user_works_with_the_file_that_the_administrator_made(running: Cluster, tmp_path: Path) -> None:
    alice, bob = access(running, tmp_path, "alice"), access(running, tmp_path, "bob")
    config = yaml.safe_load(Path(alice).read_text())
    assert (config["current-context"], list(config["users"][0]["user"])) == ("alice", ["token"])
    assert running.says("apply", "-f", "-", "--kubeconfig", alice, stdin=SECRET) == "secret/s created\n"
    assert running.says("apply", "-f", "-", "--kubeconfig", alice, stdin=SECRET) == "secret/s unchanged\n"
    other = SECRET.replace("hunter2", "hunter3")
    assert running.says("apply", "-f", "-", "--kubeconfig", alice, stdin=other) == "secret/s configured\n"
    assert "hunter" not in running.says("get", "secret/s", "-o", "yaml", "--kubeconfig", alice)
    assert "keys" in running.says("get", "secret/s", "-o", "yaml", "--kubeconfig", alice)
    assert running.nanoctl("get", "secret/s", "--kubeconfig", bob).exit_code == 1
    assert running.nanoctl("get", "hosts", "--kubeconfig", alice).exit_code == 1
    assert "role/operator               NotVisible" in running.says("defaults", "--kubeconfig", alice)
    assert running.says("chown", "secret/s", "bob", "-n", "team-a") == "secret/s belongs to bob\n"
    assert running.says("get", "secret/s", "-o", "name", "--kubeconfig", bob) == "secret/s\n"
    assert running.nanoctl("get", "secret/s", "--kubeconfig", alice).exit_code == 1
    assert running.nanoctl("chown", "secret/s", "alice", "--kubeconfig", bob).exit_code == 1


def test_user_gets_in_with_a_certificate_as_well(running: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "bob.kubeconfig"
    file.write_text(running.says("kubeconfig", "--user", "bob", "--certificate", "-n", "team-a"))
    proof = yaml.safe_load(file.read_text())["users"][0]["user"]
    assert sorted(proof) == ["client-certificate-data", "client-key-data"]
    assert "No secrets" in running.nanoctl("get", "secrets", "-n", "shared", "--kubeconfig", str(file)).output
    assert running.nanoctl("get", "hosts", "--kubeconfig", str(file)).exit_code == 1
    away = running.nanoctl("kubeconfig", "--kubeconfig", str(file), "--user", "bob", "--certificate")
    assert away.exit_code == 1, "bob may not even read users, and signs nothing elsewhere"


def test_bad_address_makes_no_token(running: Cluster) -> None:
    before = running.says("token", "list", "alice")
    assert running.nanoctl("kubeconfig", "--user", "alice", "--server", "http://x").exit_code == 2
    assert running.says("token", "list", "alice") == before


def test_tokens_are_made_listed_and_taken_back(running: Cluster) -> None:
    made = running.nanoctl("token", "create", "bob", "--description", "robot", "--expires", "12h")
    assert made.stdout.startswith("nano_")
    [line] = [one for one in running.says("token", "list", "bob").splitlines() if one.endswith("robot")]
    id_ = line.split()[0]
    assert id_ in made.stderr
    assert running.says("token", "revoke", "bob", id_) == f"token {id_} of bob revoked\n"
    assert id_ not in running.says("token", "list", "bob")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("kubeconfig", "--user", "nobody"), "nobody"),
        (("token", "create", "alice", "--expires", "soon"), "is not a time like"),
        (("token", "create", "alice", "--expires", "999d"), "expiresSeconds"),
        (("token", "revoke", "alice", "xxx"), "nanoctl token list USER"),
        (("chown", "user/alice", "bob"), "name one object of a namespace"),
        (("chown", "secret/absent", "bob"), "not found"),
        (("chown", "secrets", "bob"), "name one object"),
    ],
)
def test_refusal_says_what_was_wrong(running: Cluster, arguments: tuple[str, ...], said: str) -> None:
    result = running.nanoctl(*arguments)
    assert result.exit_code in (1, 2)
    assert said in result.output


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("12h", 43200), ("30d", 2592000)])
def test_lifetimes(text: str, seconds: int) -> None:
    assert Lifetime().convert(text, None, None) == seconds
