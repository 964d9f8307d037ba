"""What every command that talks to a server has: its connection options, and the session made from them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import click

from nanovirt.portal.cli.catalogue import Catalogue, Kind, Target
from nanovirt.portal.cli.connection import Connection, connect
from nanovirt.resources import wire
from nanovirt.resources.errors import Forbidden, NotFound

JSON = dict[str, Any]
Command = Callable[..., Any]
PAGE = 500


class Session:
    """A connection, the kinds behind it, and the namespace that is meant when none is named."""

    def __init__(self, connection: Connection, namespace: str | None) -> None:
        self.connection = connection
        self.namespace = namespace or connection.credentials.namespace or "default"

    @cached_property
    def catalogue(self) -> Catalogue:
        """The kinds of the server, asked for once."""
        return Catalogue.read(self.connection)

    def targets(self, arguments: Iterable[str]) -> list[Target]:
        """What the arguments of a command name."""
        return self.catalogue.targets(arguments)

    def get(self, target: Target, at: str = "") -> JSON:
        """The object, as it was at a revision or time if one is given. NotFound."""
        return self.connection.get(target.kind.path(self.namespace, target.name) + wire.query(at=at))

    def find(self, kind: str, name: str, namespace: str = "") -> JSON | None:
        """The object of that kind (any of its words); None when it is not there, or not for this user to see."""
        try:
            return self.connection.get(self.catalogue.named(kind).path(namespace or self.namespace, name))
        except (NotFound, Forbidden):
            return None

    def every(self, kind: str, **parameters: str) -> list[JSON]:
        """All objects of that kind in all namespaces, as far as this user may see any."""
        try:
            return self.list(self.catalogue.named(kind), everywhere=True, **parameters)[0]
        except Forbidden:
            return []

    def pages(self, kind: Kind, *, everywhere: bool, accept: str = "", **parameters: str) -> Iterable[JSON]:
        """The pages of a list, each as the server sends it; of the past there is one, since each would be read anew."""
        going_on = ""
        while True:
            asked = wire.query(limit=0 if parameters.get("at") else PAGE, **parameters, **{"continue": going_on})
            page = self.connection.get(self.collection(kind, everywhere=everywhere) + asked, accept)
            yield page
            going_on = (page.get("metadata") or {}).get("continue") or ""
            if not going_on:
                return

    def list(self, kind: Kind, *, everywhere: bool = False, **parameters: str) -> tuple[list[JSON], str]:
        """All objects that match, and the revision from which a watch goes on."""
        items: list[JSON] = []
        revision = ""
        for page in self.pages(kind, everywhere=everywhere, **parameters):
            items += page.get("items") or ()
            revision = revision or page["metadata"]["resourceVersion"]
        return items, revision

    def collection(self, kind: Kind, *, everywhere: bool = False) -> str:
        """The path of all objects of a kind in the namespace, or in all of them."""
        return kind.path("" if everywhere else self.namespace)

    def patch(self, target: Target, body: JSON, *, part: str = "", dry_run: bool = False) -> JSON:
        """Change an object, or that sub-resource of it, by a merge patch."""
        path = target.kind.path(self.namespace, target.name, part) + (wire.query(dryRun="All") if dry_run else "")
        return self.connection.write("PATCH", path, body, content_type=wire.PATCH_TYPES["merge"])


def connected(command: Command) -> Command:
    """Give a command --kubeconfig, --context and --namespace, and a Session as its first argument."""

    @click.option("--kubeconfig", metavar="FILE", help="Instead of $NANO_KUBECONFIG and the data folder's own.")
    @click.option("--context", metavar="NAME", help="Context of the kubeconfig to use.")
    @click.option("-n", "--namespace", metavar="NAME", help="Namespace to work in.  [default: default]")
    @functools.wraps(command)
    def with_session(kubeconfig: str | None, context: str | None, namespace: str | None, **arguments: Any) -> Any:
        connection = connect(kubeconfig, context)
        try:
            return command(Session(connection, namespace), **arguments)
        finally:
            connection.close()

    return with_session
