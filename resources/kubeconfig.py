"""The kubeconfig file: read into credentials, and merged into one that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from nanovirt.resources.access import BadCredentials, Credentials, pem_of

JSON = dict[str, Any]


def from_kubeconfig(path: Path, context: str | None = None) -> Credentials:
    """What the file says for `context`, or for its current one. Raises BadCredentials, naming what is wrong."""
    config = read(path)
    wanted = context or config.get("current-context") or ""
    if not wanted:
        raise BadCredentials(f"{path} has no current-context; name one of {', '.join(_names(config, 'contexts'))}")
    chosen = _entry(config, "contexts", wanted, path).get("context") or {}
    cluster = _entry(config, "clusters", chosen.get("cluster", ""), path).get("cluster") or {}
    user = _entry(config, "users", chosen.get("user", ""), path).get("user") or {}
    try:
        return _credentials(cluster, user, chosen.get("namespace") or "", path.parent)
    except (ValueError, OSError) as error:
        raise BadCredentials(f"{path}, context {wanted}: {error}") from error


def _credentials(cluster: JSON, user: JSON, namespace: str, folder: Path) -> Credentials:
    kept = user.get("tokenFile")
    return Credentials(
        server=_server(str(cluster.get("server") or "").rstrip("/")),
        ca_pem=pem_of(cluster, "certificate-authority", folder),
        token=user.get("token") or ((folder / kept).read_text().strip() if kept else ""),
        certificate_pem=pem_of(user, "client-certificate", folder),
        key_pem=pem_of(user, "client-key", folder),
        namespace=namespace,
    )


def read(path: Path) -> JSON:
    """The parsed file. Raises BadCredentials."""
    try:
        config = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe
    except OSError as error:
        raise BadCredentials(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise BadCredentials(f"{path} is not a kubeconfig: {error}") from error
    if not isinstance(config, dict):
        raise BadCredentials(f"{path} is not a kubeconfig: it {'is empty' if config is None else 'holds no mapping'}")
    return config


def _server(url: str) -> str:
    """The address, once it can be one. ValueError."""
    try:
        good = bool(urlsplit(url).hostname) and urlsplit(url).port != 0
    except ValueError:  # a port that is no number, or none that there is
        good = False
    if not good:
        raise ValueError(f"the server {url!r} is no address like https://HOST:5870")
    return url


def _entry(config: JSON, section: str, name: str, path: Path) -> JSON:
    for one in config.get(section) or ():
        if isinstance(one, dict) and one.get("name") == name:
            return one
    known = ", ".join(_names(config, section)) or "none"
    raise BadCredentials(f"{path} has no {section[:-1]} {name!r}; it has {known}")


def _names(config: JSON, section: str) -> list[str]:
    return [str(one.get("name")) for one in config.get(section) or () if isinstance(one, dict)]


def merge(into: JSON, config: JSON) -> JSON:
    """`into` with the entries of `config` in place of those of the same name, and its context as the current one."""
    merged = {"apiVersion": "v1", "kind": "Config", **into, "current-context": config.get("current-context", "")}
    for section in ("clusters", "users", "contexts"):
        names = _names(config, section)
        kept = [one for one in into.get(section) or () if one.get("name") not in names]
        merged[section] = [*kept, *(config.get(section) or ())]
    return merged


def dump(config: JSON) -> str:
    """The text of a kubeconfig; keep it at mode 0600, since it holds a secret."""
    return yaml.safe_dump(config, sort_keys=False)
