"""The file that lets a host's agent reach the server: addresses, certificates and the private key of that one host."""

from __future__ import annotations

from nanovirt.resources.fields import Name, Uid
from nanovirt.resources.metadata import Model

SERVERS, ADMINS = "nano:servers", "nano:admins"
"""Organizations in certificates: of the control plane, which alone may ask an agent about machines, and of people."""


class HostCredentials(Model):
    """One JSON file of mode 0600; `ca`, `certificate` and `key` are PEM texts.

    The certificate says CN=host:UID, O=nano:hosts and serves both ways: to the server as a client, and on the agent's
    own port, where a caller demands the DNS name UID.
    """

    server: str
    host: Name
    uid: Uid
    ca: str
    certificate: str
    key: str
