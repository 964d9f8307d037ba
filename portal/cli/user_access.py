"""The kubeconfig of a user: with a new token, or with a client certificate that is signed on the server's machine."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanovirt.portal.cli.connection import Connection, connect
from nanovirt.portal.cli.people import new_token
from nanovirt.portal.cli.session import Session
from nanovirt.resources import wire
from nanovirt.resources.errors import Rejected

JSON = dict[str, Any]


def with_token(path: Path, user: str, namespace: str, seconds: int) -> JSON:
    """A kubeconfig with a new token of that user, for the server that the kubeconfig `path` leads to."""
    connection = connect(str(path), None)
    try:
        made = new_token(Session(connection, None), user, "kubeconfig", seconds)
        return _kubeconfig(connection, user, namespace, {"token": made["status"]["token"]})
    finally:
        connection.close()


def with_certificate(path: Path, user: str, namespace: str) -> JSON:
    """The same with a key and a certificate for a year; `path` lies in the server's data folder. Raises Rejected."""
    connection = connect(str(path), None)
    try:
        uid = connection.get(wire.path("nano/v1", "users", "", user))["metadata"]["uid"]
        return _kubeconfig(connection, user, namespace, _signed(path.parent, user, uid))
    finally:
        connection.close()


def _signed(folder: Path, user: str, uid: str) -> JSON:
    from nanovirt.portal.certificates import certificate_pem, key_pem  # noqa: PLC0415 - cryptography is slow to load
    from nanovirt.portal.pki import Pki  # noqa: PLC0415 - as above

    if not (folder / "pki" / "ca.key").is_file():
        raise Rejected(f"{folder / 'pki' / 'ca.key'} is not there: certificates are signed on the server's machine")
    pair = Pki(folder, datetime.now(UTC)).user_pair(user, uid)
    return {
        "client-certificate-data": _base64(certificate_pem(pair.certificate)),
        "client-key-data": _base64(key_pem(pair.key)),
    }


def _kubeconfig(connection: Connection, user: str, namespace: str, proof: JSON) -> JSON:
    """One cluster, one user, one context, which is named after the user."""
    cluster: JSON = {"server": connection.credentials.server}
    if connection.credentials.ca_pem:
        cluster["certificate-authority-data"] = _base64(connection.credentials.ca_pem.encode())
    context = {"cluster": "nano", "user": user, "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "nano", "cluster": cluster}],
        "users": [{"name": user, "user": proof}],
        "contexts": [{"name": user, "context": context}],
        "current-context": user,
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
