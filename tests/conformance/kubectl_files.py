"""The manifests that the table of kubectl checks creates, applies, edits and deletes, by file name."""

from __future__ import annotations


def instance(name: str, labels: str = "app: web", *, cpus: int = 2, namespace: str = "default", more: str = "") -> str:
    """A small Instance."""
    return f"""\
apiVersion: nano/v1
kind: Instance
metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}
spec:
  cpus: {cpus}
  memory: 2Gi
  disks: [{{name: system, size: 10Gi}}]
  nics: [{{name: lan, addressPool: lan}}]
{more}"""


def pool(name: str, net: int, labels: str = "site: a", *, lease: int = 3600, head: str = "") -> str:
    """An AddressPool of fifty addresses in 10.NET.0.0/24."""
    return f"""\
apiVersion: nano/v1
kind: AddressPool
metadata: {{name: {name}, labels: {{{labels}}}{head}}}
spec:
  network: net-{net}
  subnet: 10.{net}.0.0/24
  gateway: 10.{net}.0.1
  dns: []
  domain: ""
  ranges: [{{name: low, first: 10.{net}.0.50, last: 10.{net}.0.99}}]
  reserved: []
  leaseSeconds: {lease}
"""


def template(name: str, labels: str = "", *, disk: str = "Sata", kind: str = "metadata") -> str:
    """A SystemTemplate, of which nothing else depends."""
    return f"""\
apiVersion: nano/v1
kind: SystemTemplate
{kind}: {{name: {name}, labels: {{{labels}}}}}
spec: {{family: Other, diskBus: {disk}}}
"""


def family() -> str:
    """Two SystemTemplates, of which somebody keeps the second."""
    child = template("child").replace("labels: {}", "finalizers: [example.com/keep]")
    return documents(template("parent"), child)


def instance_set(name: str, replicas: int, *, cpus: int = 1) -> str:
    """Some instances that are alike."""
    return f"""\
apiVersion: nano/v1
kind: InstanceSet
metadata: {{name: {name}, namespace: default}}
spec:
  replicas: {replicas}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      cpus: {cpus}
      memory: 256Mi
      disks: [{{name: system, size: 1Gi}}]
"""


def documents(*texts: str) -> str:
    """Several documents in one YAML file."""
    return "---\n".join(texts)


def generated() -> str:
    """A SystemTemplate whose name the server completes."""
    return template("x", "made: generated").replace("name: x", "generateName: auto-")


FILES = {
    "bad-values.yaml": instance("wrong", cpus=-2).replace("2Gi", "lots"),
    "bad-yaml.yaml": "apiVersion: nano/v1\nkind: [\n",
    "family.yaml": family(),
    "folder/one.yaml": template("folder-1", "in: folder"),
    "folder/two.yaml": template("folder-2", "in: folder"),
    "generated.yaml": generated(),
    "kustom/kustomization.yaml": "namePrefix: k-\nresources: [template.yaml]\n",
    "kustom/template.yaml": template("one", "in: kustom"),
    "kept.yaml": template("kept").replace("labels: {}", "finalizers: [example.com/keep]"),
    "list.yaml": documents(template("list-1", "in: list"), template("list-2", "in: list")),
    "no-namespace.yaml": instance("web-1", namespace="nowhere"),
    "no-spec.yaml": "apiVersion: nano/v1\nkind: AddressPool\nmetadata: {name: empty}\nspec: {}\n",
    "namespace.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: team-e, labels: {tier: one, old: gone}}\n",
    "namespace-changed.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: team-e, labels: {tier: two}}\n",
    "other-kind.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n",
    "pool.yaml": pool("shop", 30),
    "pool-longer.yaml": pool("shop", 30, lease=7200),
    "pool-moved.yaml": pool("shop", 31),
    "pools.yaml": documents(
        pool("p-1", 41, "batch: one"), pool("p-2", 42, "batch: one"), pool("p-3", 43, "batch: one")
    ),
    "pools-fewer.yaml": documents(pool("p-1", 41, "batch: one"), pool("p-3", 43, "batch: one")),
    "raw.json": '{"apiVersion":"nano/v1","kind":"SystemTemplate","metadata":{"name":"raw"},"spec":{"family":"Bsd"}}',
    "set.yaml": instance_set("front", 3),
    "set-changed.yaml": instance_set("front", 3, cpus=2),
    "set-wrong.yaml": instance_set("wrong", 3).replace("256Mi", "1Ki"),
    "strange.yaml": instance("strange").replace("cpus: 2", "cpus: 2\n  cpuz: 2"),
    "system.yaml": """\
apiVersion: nano/v1
kind: Volume
metadata: {name: mine}
spec: {storagePool: local, size: 1Gi, file: /v/a.qcow2}
""",
    "team-d.yaml": instance("in-d", namespace="team-d"),
    "team.yaml": instance("team-1", "app: team", namespace="team-a"),
    "template.yaml": template("t-1", "app: web"),
    "web.yaml": instance("web-1", "app: web, tier: front"),
    "web-bigger.yaml": instance("web-1", "app: web, tier: front", cpus=3),
    "webs.yaml": documents(
        instance("web-1", "app: web, tier: front"),
        instance("web-2", "app: web, tier: back", cpus=4),
        instance("db-1", "app: db, tier: back", cpus=1),
    ),
}
