"""What clients read before they ask for objects: versions, discovery in both forms, and the OpenAPI documents."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from aiohttp import web

from nanovirt.portal.api import swagger
from nanovirt.portal.api.paths import GROUP, Unknown
from nanovirt.portal.api.replies import document, reply
from nanovirt.resources import openapi
from nanovirt.resources.codec import JSON, dump
from nanovirt.resources.errors import NotAllowed
from nanovirt.resources.kind import CORE, GROUP_VERSION, KINDS, Document, Facts
from nanovirt.resources.openapi_v2 import v2
from nanovirt.resources.registry import kinds
from nanovirt.resources.scale import SUBRESOURCE
from nanovirt.resources.schemas import SCALE_GVK

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"
V2_PROTOBUF_REPLY = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
KUBERNETES = "1.33.0"
"""The version whose conventions these are; clients warn when theirs is far from it."""
VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
READ_ONLY = ["get", "list", "watch"]
SUB_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
V = "v1"


class Documents:
    """Everything here is fixed while the process lives."""

    def __init__(self, version: str, hooks: Iterable[tuple[str, str, str]] = ()) -> None:
        """`hooks`: (plural, sub-resource, method) beside the ordinary ones."""
        self._version = version
        self._hooks = tuple(hooks)

    def answer(self, request: web.BaseRequest, segments: list[str]) -> web.Response:
        """The document at that path. Raises Unknown, NotAllowed."""
        path = "/".join(segments)
        found = self._found(path, request)
        if found is None:
            raise Unknown
        if request.method not in ("GET", "HEAD"):
            raise NotAllowed(f"{request.method} is not possible on /{path}", "GET", "HEAD")
        return found

    def _found(self, path: str, request: web.BaseRequest) -> web.Response | None:
        match path:
            case "version":
                return document(self._version_doc)
            case "api" | "apis":
                return self._groups(path, request.headers.get("Accept", ""))
            case "openapi/v3":
                return document(self._v3_index)
            case "openapi/v2":
                return self._v2(request.headers.get("Accept", ""))
            case "":
                known = ["/api", "/api/v1", "/apis", f"/apis/{GROUP_VERSION}", "/openapi/v2", "/openapi/v3", "/version"]
                return document({"paths": known})
            case _:
                return self._by_group(path)

    def _by_group(self, path: str) -> web.Response | None:
        if path == f"apis/{GROUP}":
            return document({"kind": "APIGroup", "apiVersion": CORE, **_group()})
        by_group = {"api/v1": CORE, f"apis/{GROUP_VERSION}": GROUP_VERSION}
        if path in by_group:
            return document(self._resources(by_group[path]))
        schema = by_group.get(path.removeprefix("openapi/v3/")) if path.startswith("openapi/v3/") else None
        return reply(self._v3[schema]) if schema else None

    @cached_property
    def _version_doc(self) -> JSON:
        major, minor, _ = KUBERNETES.split(".")
        return {
            "major": major,
            "minor": minor,
            "gitVersion": f"v{KUBERNETES}+nano.{self._version}",
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": platform.python_implementation().lower(),
            "platform": "linux/amd64",
        }

    # --- discovery ---

    def _groups(self, path: str, accept: str) -> web.Response:
        for version in ("v2", "v2beta1"):
            kind = AGGREGATED.format(version)
            if kind in accept.replace(" ", ""):
                return self._aggregated(path, version, kind)
        headers = {"Vary": "Accept"}
        if path == "api":
            versions = {"kind": "APIVersions", "versions": [CORE], "serverAddressByClientCIDRs": []}
            return reply(dump(versions), headers=headers)
        return reply(dump({"kind": "APIGroupList", "apiVersion": CORE, "groups": [_group()]}), headers=headers)

    def _aggregated(self, path: str, version: str, kind: str) -> web.Response:
        group_version = CORE if path == "api" else GROUP_VERSION
        resources = [self._discovered(cls.facts) for cls in _kinds(group_version)]
        item = {
            "metadata": {"name": GROUP} if path == "apis" else {},
            "versions": [{"version": V, "freshness": "Current", "resources": resources}],
        }
        doc: JSON = {"kind": "APIGroupDiscoveryList", "apiVersion": f"apidiscovery.k8s.io/{version}", "metadata": {}}
        doc["items"] = [item]
        return reply(dump(doc), headers={"Content-Type": kind, "Vary": "Accept"})

    def _discovered(self, facts: Facts) -> JSON:
        subs = [
            {"subresource": name, "responseKind": _response_kind(facts, name), "verbs": verbs}
            for name, verbs in self._subresources(facts).items()
        ]
        made: JSON = {
            "resource": facts.plural,
            "responseKind": _response_kind(facts),
            "scope": facts.scope.value,
            "singularResource": facts.singular,
            "verbs": verbs_of(facts),
            "shortNames": list(facts.short),
            "categories": list(facts.categories),
        }
        return {**made, "subresources": subs} if subs else made

    def _resources(self, group_version: str) -> JSON:
        resources = []
        for cls in _kinds(group_version):
            facts = cls.facts
            resources.append(
                {
                    "name": facts.plural,
                    "singularName": facts.singular,
                    "namespaced": facts.namespaced,
                    "kind": facts.kind,
                    "verbs": verbs_of(facts),
                    "shortNames": list(facts.short),
                    "categories": list(facts.categories),
                }
            )
            for name, verbs in self._subresources(facts).items():
                sub = {"name": f"{facts.plural}/{name}", "singularName": "", "namespaced": facts.namespaced}
                kind = SCALE_GVK if name == SUBRESOURCE else {"kind": facts.kind}
                resources.append({**sub, **kind, "verbs": verbs})
        return {"kind": "APIResourceList", "apiVersion": CORE, "groupVersion": group_version, "resources": resources}

    def _subresources(self, facts: Facts) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        if "status" in KINDS[facts.plural].model_fields:
            found["status"] = ["get", "patch", "update"]
        found["timeline"] = ["get"]
        if facts.scaling:
            found[SUBRESOURCE] = ["get", "patch", "update"]
        for plural, name, method in self._hooks:
            if plural == facts.plural:
                found.setdefault(name, []).append(SUB_VERBS.get(method, method.lower()))
        return found

    # --- OpenAPI ---

    @cached_property
    def _v3(self) -> dict[str, bytes]:
        facts = {one: [cls.facts for cls in _kinds(one)] for one in (CORE, GROUP_VERSION)}
        made = {one: openapi.v3(kinds, self._version) for one, kinds in facts.items()}
        made[GROUP_VERSION]["paths"] |= openapi.transactions() | openapi.history()
        return {one: dump(doc) for one, doc in made.items()}

    @cached_property
    def _v3_index(self) -> JSON:
        paths: dict[str, Any] = {}
        for group_version, raw in self._v3.items():
            path = f"api/{group_version}" if group_version == CORE else f"apis/{group_version}"
            tag = hashlib.sha256(raw).hexdigest()[:32].upper()
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={tag}"}
        return {"paths": paths}

    @cached_property
    def _v2_doc(self) -> JSON:
        return v2([cls.facts for one in (CORE, GROUP_VERSION) for cls in _kinds(one)], self._version)

    @cached_property
    def _v2_protobuf(self) -> bytes:
        return swagger.encode(self._v2_doc)

    def _v2(self, accept: str) -> web.Response:
        if "protobuf" in accept:
            return reply(self._v2_protobuf, headers={"Content-Type": V2_PROTOBUF_REPLY})
        return document(self._v2_doc)


def _kinds(group_version: str) -> list[type[Document]]:
    return [cls for cls in kinds().values() if cls.facts.group_version == group_version]


def verbs_of(facts: Facts) -> list[str]:
    """What can be done to a kind by people."""
    if facts.system:
        return [*READ_ONLY, "delete"] if facts.removable else READ_ONLY
    return VERBS


def _group() -> JSON:
    version = {"groupVersion": GROUP_VERSION, "version": V}
    return {"name": GROUP, "versions": [version], "preferredVersion": version}


def _response_kind(facts: Facts, subresource: str = "") -> JSON:
    if subresource == SUBRESOURCE:
        return dict(SCALE_GVK)
    group, _, version = facts.group_version.rpartition("/")
    return {"group": group, "version": version, "kind": facts.kind}
