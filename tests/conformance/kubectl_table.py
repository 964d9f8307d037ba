"""What kubectl must be able to do: commands in order, what they must answer, and what must be true afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NEWEST = 999
Truths = Mapping[str, Mapping[str, Any] | None]
"""`kind/name` or `kind/namespace/name` -> JSON path -> value (a list where it finds several, [] where it finds
nothing); None: there is no such object."""


@dataclass(frozen=True)
class Check:
    """One command line, and what has to come of it; patterns are searched, `^` and `$` mean lines."""

    run: str
    """UID(kind/name) stands for the uid of that object."""
    out: tuple[str, ...] | str = ()
    err: tuple[str, ...] | str = ()
    never: tuple[str, ...] | str = ()
    """Nowhere in either output."""
    code: int = 0
    stdin: str = ""
    """The name of a file of FILES."""
    then: Truths = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    meanwhile: tuple[str, ...] = ()
    """Other commands, the first of them half a second after this one has begun."""
    warns: bool = False
    """Whether a command that succeeds may say something on its error output though `err` asks for nothing."""
    since: int = 0
    before: int = NEWEST
    """Minor versions of kubectl that know the command: from `since`, below `before`."""

    def known_to(self, minor: int) -> bool:
        """Whether that kubectl has the command."""
        return self.since <= minor < self.before


# fmt: off
EDIT = {"EDITOR": "sed -i -e s/cpus:.[0-9]*/cpus:\\ 7/", "KUBE_EDITOR": ""}
EDIT_NOTHING = {"EDITOR": "true", "KUBE_EDITOR": ""}
EDIT_WRONG = {"EDITOR": "sed -i -e s/cpus:.-*[0-9]*/cpus:\\ -7/", "KUBE_EDITOR": ""}
BELONGS = (
    '{"metadata":{"ownerReferences":[{"apiVersion":"nano/v1","kind":"SystemTemplate","name":"parent",'
    '"uid":"UID(systemtemplates/parent)","blockOwnerDeletion":true}]}}'
)

DISCOVERY = (
    Check("version", warns=True, out=r"v1\.33\.0\+nano"),
    Check("version -o json", warns=True, out=(r'"serverVersion"', r'"minor": "33"')),
    Check("api-versions", out=("^nano/v1$", "^v1$")),
    Check("api-resources", out=(r"^instances +inst,vm +nano/v1 +true +Instance", r"^namespaces +ns +v1 +false")),
    Check("api-resources --namespaced=false -o name", out=(r"^hosts\.nano$", "^namespaces$"), never="instances"),
    Check("api-resources --api-group=nano --verbs=list,create -o wide", out=r"^instances .*deletecollection"),
    Check("api-resources --categories=all --no-headers", out=r"^instances ", never="hosts", since=27),
    Check("api-resources --sort-by=kind -o name", out=r"(?s)addresses.*volumes"),
    Check("get --raw /apis/nano/v1", out=(r'"kind":"APIResourceList"', "instances/status")),
    Check("get --raw /apis/nano", out=r'"preferredVersion"'),
    Check("get --raw /version/", out="gitVersion"),
    Check("get --raw /readyz", out="^ok$"),
    Check("get --raw /openapi/v3", out=r'"apis/nano/v1":\{"serverRelativeURL":"/openapi/v3/apis/nano/v1\?hash='),
    Check("get --raw /apis/nano/v1/nothing", err=r"\(NotFound\)", code=1),
    Check("get nothing", err="doesn't have a resource type", code=1),
    Check("explain instance", out=("KIND: +Instance", "VERSION: +(nano/)?v1", "powerState|spec"), never="<empty>"),
    Check("explain inst.spec", out=("powerState", "disks")),
    Check("explain instances.spec.disks.source", out=("image",)),
    Check("explain instances.spec.nics.addressPool", out=(r"(?i)string",)),
    Check("explain instance --recursive", out=("nics", "addressPool", "conditions")),
    Check("explain addresspools.spec.ranges.first", out="(?i)string"),
    Check("explain instance.spec.nothing", err="does not exist", code=1),
    Check("explain systemtemplates --api-version=nano/v1", out="SystemTemplate"),
    Check("explain events.involvedObject", out="uid"),
    Check("explain namespaces", out="metadata"),
    Check("explain hosts.spec --output=plaintext-openapiv2", out="bridges", since=27),
)

RIGHTS = (
    Check("auth can-i create instances", out="^yes$"),
    Check("auth can-i delete addresspools.nano --all-namespaces", out="^yes$"),
    Check("auth can-i get instances/web-1 --subresource=status", out="^yes$"),
    Check("auth can-i get /version", out="^yes$"),
    Check("auth can-i '*' '*'", out="^yes$"),
    Check("auth can-i fly dragons", out="^no", err="doesn't have a resource type", code=1),
    Check("auth can-i --list", out=(r"^instances\.nano", r"^namespaces ")),
    Check("auth can-i --list -n team-a --no-headers", out=r"^events "),
    Check("auth whoami", out="admin", since=28),
    Check("auth whoami -o jsonpath={.status.userInfo.groups}", out="nano:admins|admins", since=28),
    Check("get instances --as=eve", err=r"\(Forbidden\).*impersonation", code=1),
    Check("auth can-i create instances --as=eve", err="impersonation", code=1),
    Check("get instances --token=wrong --user=nobody", err="(?i)unauthorized|logged in|does not exist", code=1),
)

CREATING = (
    Check("create -f template.yaml", out=r"^systemtemplate\.nano/t-1 created$", then={"systemtemplates/t-1": {".metadata.generation": 1}}),
    Check("create -f template.yaml", err=r"\(AlreadyExists\).*systemtemplates\.nano \"t-1\" already exists", code=1),
    Check("create -f - -o name", stdin="pool.yaml", out=r"^addresspool\.nano/shop$", then={"addresspools/shop": {".spec.leaseSeconds": 3600}}),
    Check("create -f folder", out=("folder-1 created", "folder-2 created"), then={"systemtemplates/folder-2": {".metadata.labels.in": "folder"}}),
    Check("create -f generated.yaml", out=r"auto-[a-z0-9]{5} created"),
    Check("get tmpl -l made=generated -o name", out=r"^systemtemplate\.nano/auto-[a-z0-9]{5}$"),
    Check("create -f list.yaml --save-config", out=("list-1 created", "list-2 created"), then={"systemtemplates/list-1": {".metadata.labels.in": "list"}}),
    Check("get tmpl list-1 -o yaml", out=r"kubectl\.kubernetes\.io/last-applied-configuration"),
    Check("create -f web.yaml --dry-run=server -o yaml", out=("uid: ", "computePool: default", "nano/owner: admin"), then={"instances/web-1": None}),
    Check("create -f web.yaml --dry-run=client", out=r"web-1 created \(dry run\)", then={"instances/web-1": None}),
    Check("create -f web.yaml -o jsonpath={.metadata.labels.tier}", out="^front$", then={"instances/web-1": {".spec.cpus": 2, ".metadata.finalizers[*]": "nano/instance"}}),
    Check("create -f strange.yaml", err="cpuz", code=1, then={"instances/strange": None}),
    Check("create -f strange.yaml --validate=warn", out="strange created", err=r'Warning: unknown field "spec\.cpuz"', since=27, then={"instances/strange": {".spec.cpuz": []}}),
    Check("create -f bad-values.yaml --validate=false", err=(r"is invalid", r"spec\.cpus", r"spec\.memory"), code=1, then={"instances/wrong": None}),
    Check("create -f no-spec.yaml --validate=false", err=r"spec\.subnet", code=1),
    Check("create -f bad-yaml.yaml", err="yaml|YAML", code=1),
    Check("create -f other-kind.yaml", err=r"(?i)no matches for kind \"Deployment\"", code=1),
    Check("create -f no-namespace.yaml", err=r'namespaces "nowhere" not found', code=1),
    Check("create -f system.yaml", err=r"\(Forbidden\)", code=1),
    Check("create -f web.yaml --edit", code=1, env=EDIT, err="AlreadyExists"),
    Check("create namespace team-b", out="^namespace/team-b created$", then={"namespaces/team-b": {".kind": "Namespace"}} ),
    Check("create namespace team-b", err="AlreadyExists", code=1),
    Check("create ns team-c --dry-run=server", out="team-c created", then={"namespaces/team-c": None}),
    Check("get ns team-b", out=r"^team-b "),
    Check("delete ns team-b", out='namespace "team-b" deleted', then={"namespaces/team-b": None}),
    Check("delete ns default", err=r"\(Forbidden\)", code=1),
)

READING = (
    Check("create -f webs.yaml", out=("web-1 created", "web-2 created", "db-1 created")),
    Check("create namespace team-a", out="created"),
    Check("create -f team.yaml", out="team-1 created", then={"instances/team-a/team-1": {".spec.cpus": 2}}),
    Check("wait instance --all --for=condition=Ready --timeout=30s", out=("web-1 condition met", "db-1 condition met")),
    Check("wait inst/team-1 -n team-a --for=condition=Ready --timeout=30s", out="condition met"),
    Check("get vm", out=(r"^NAME +PHASE +HOST +IP +CPUS +MEMORY +AGE", r"^web-1 +Running +sim-\d +10\.\S+ +2 +2Gi +\d+s"), never="team-1"),
    Check("get instances -A", out=(r"^NAMESPACE +NAME", r"^team-a +team-1 ", r"^default +web-1 ")),
    Check("get instances -o wide", out=(r"AGE +READY +REASON +MAC|READY +REASON +MAC", r"52:54:00:")),
    Check("get inst.nano -o name", out=r"^instance\.nano/web-2$"),
    Check("get instances.v1.nano web-1 --no-headers", out=r"^web-1 "),
    Check("get inst/web-1 tmpl/linux -o name", out=(r"^instance\.nano/web-1$", r"^systemtemplate\.nano/linux$")),
    Check("get inst web-1 web-2 nope --ignore-not-found -o name", out="web-2", never="NotFound"),
    Check("get inst nope", err=r'\(NotFound\): instances\.nano "nope" not found', code=1),
    Check("get nano", out=(r"systemtemplate\.nano/linux", r"instance\.nano/web-1")),
    Check("get all", out=r"web-1 ", never="systemtemplate"),
    Check("get inst,tmpl,hosts --show-kind --no-headers", out=(r"^instance\.nano/web-1 ", r"^host\.nano/sim-1 ")),
    Check("get inst -l app=web -o name", out="web-2", never="db-1"),
    Check("get inst -l 'app in (web,db),tier notin (back)' -o name", out="web-1", never=("db-1", "web-2")),
    Check("get inst -l '!tier,app' -A -o name", out="team-1", never="web-1"),
    Check("get inst -l app!=web -o name", out="db-1", never="web-"),
    Check("get inst --show-labels -L tier", out=("TIER +LABELS", r"back +app=db,nano/owner=admin,tier=back")),
    Check("get inst --field-selector metadata.name=web-2 -o name", out="web-2", never="web-1"),
    Check("get inst --field-selector status.phase=Running,spec.powerState!=Stopped -o name", out="web-1"),
    Check("get inst --field-selector status.phase!=Running", err="No resources found"),
    Check("get inst --field-selector spec.cpus=2", err=(r"\(BadRequest\)", r"spec\.cpus", r"status\.phase"), code=1),
    Check("get inst -A --field-selector metadata.namespace=team-a -o name", out="team-1", never="web-1"),
    Check("get inst web-1 -o json", out=(r'"kind": "Instance"', r'"cpus": 2')),
    Check("get inst -o yaml", out=(r"^kind: List$", r"^- apiVersion: nano/v1$")),
    Check("get inst web-1 -o jsonpath='{.spec.cpus} {.spec.disks[0].size}'", out="^2 10Gi$"),
    Check("get inst -o jsonpath='{range .items[*]}{.metadata.name}={.spec.cpus}{\"\\n\"}{end}'", out=("^db-1=1$", "^web-2=4$")),
    Check("get inst -o go-template='{{range .items}}{{.status.phase}} {{end}}'", out="^Running Running Running $"),
    Check("get inst -o custom-columns=N:.metadata.name,C:.spec.cpus --sort-by=.spec.cpus", out=r"(?s)N +C.*db-1 +1\n.*web-1 +2\n.*web-2 +4"),
    Check("get inst --sort-by=.metadata.name", out=r"(?s)db-1 .*web-1 .*web-2 "),
    Check("get inst --sort-by='{.spec.cpus}' -A", out=r"(?s)db-1 .*web-2 "),
    Check("get inst --chunk-size=1", out=(r"^db-1 ", r"^web-2 ")),
    Check("get inst -A --chunk-size=2 -o name", out=("db-1", "team-1")),
    Check("get tmpl --chunk-size=3 --no-headers", out=("^legacy", "^windows")),
    Check("get -f web.yaml", out="web-1"),
    Check("get -f folder -R --ignore-not-found", out=r"\A\Z"),
    Check("get inst --server-print=false", out=r"^NAME +AGE"),
    Check("get inst web-1 --subresource=status -o name", out="web-1", since=24),
    Check("get hosts", out=r"^sim-1 +default +true +True"),
    Check("get ns", out=(r"^NAME +\S*", "^default", "^shared")),
    Check("get addresses,placements,volumes -A", out=(r"placement\.nano/web-1-1", r"volume\.nano/web-1\.system")),
    Check("get events", out=(r"^LAST SEEN +TYPE +REASON|^NAME +LAST SEEN", "Scheduled", "Placed on sim-")),
    Check("get events --field-selector involvedObject.name=web-1,reason=Scheduled -o name", out=r"^event/web-1\.", never="web-2"),
    Check("get ev -A --sort-by=.lastTimestamp", out=("team-1", "web-1")),
    Check("events --for instance/web-1", out="Placed on sim-", since=26, never="web-2"),
    Check("events -A --types=Normal", out=("team-1", "web-1"), since=26),
    Check("events --types=Warning", err="No events found|No resources", since=26),
    Check("describe instance web-1", out=(r"Name: +web-1", r"Memory: +2Gi", "Events:", "Placed on sim-")),
    Check("describe inst -l app=db", out=("db-1", "Placed on sim-"), never="web-1"),
    Check("describe host/sim-1", out=("Accelerator: +simulated", "Events:")),
    Check("describe inst web-1 --show-events=false", out="web-1", never="Events:"),
    Check("describe ns team-a", out=("Name: +team-a", "Status:")),
    Check("describe inst nope", err="NotFound", code=1),
    Check("get inst -o=custom-columns-file=/dev/null", code=1, err="."),
)

CHANGING = (
    Check("apply -f pool.yaml", out=r"shop created", then={"addresspools/shop": {".spec.leaseSeconds": 3600}}),
    Check("apply -f pool.yaml", out="shop unchanged", then={"addresspools/shop": {".metadata.generation": 1}}),
    Check("diff -f pool.yaml", out=r"\A\Z"),
    Check("diff -f pool-longer.yaml", out=(r"^-  leaseSeconds: 3600", r"^\+  leaseSeconds: 7200"), code=1),
    Check("apply -f pool-longer.yaml --dry-run=server", out=r"configured \(server dry run\)", then={"addresspools/shop": {".spec.leaseSeconds": 3600}}),
    Check("apply -f pool-longer.yaml --dry-run=client", out=r"configured \(dry run\)"),
    Check("apply -f pool-longer.yaml", out="configured", then={"addresspools/shop": {".spec.leaseSeconds": 7200, ".metadata.generation": 2}}),
    Check("apply -f pool-moved.yaml", err=r"(?i)invalid.*spec\.(subnet|network)|spec\.subnet", code=1, then={"addresspools/shop": {".spec.subnet": "10.30.0.0/24"}}),
    Check("apply view-last-applied apool/shop", out="leaseSeconds: 7200"),
    Check("apply -f web.yaml", out="web-1 created"),
    Check("apply -f web-bigger.yaml", out="web-1 configured", then={"instances/web-1": {".spec.cpus": 3}}),
    Check("apply -f strange.yaml", err="cpuz", code=1),
    Check("apply -f pools.yaml", out=("p-1 created", "p-2 created", "p-3 created")),
    Check("apply -f pools-fewer.yaml --prune -l batch=one --prune-whitelist=nano/v1/AddressPool", out=("p-1 unchanged", "p-2 pruned"), before=28, then={"addresspools/p-2": None, "addresspools/p-3": {".metadata.name": "p-3"}}),
    Check("apply -f pools-fewer.yaml --prune -l batch=one --prune-allowlist=nano/v1/AddressPool", out=("p-1 unchanged", "p-2 pruned"), since=28, then={"addresspools/p-2": None, "addresspools/p-3": {".metadata.name": "p-3"}}),
    Check("edit inst web-1", out="edited", env=EDIT, then={"instances/web-1": {".spec.cpus": 7}}),
    Check("edit inst web-1", err="cancelled, no changes", env=EDIT_NOTHING),
    Check("edit inst web-1 -o json", out=r'"kind": "Instance"', env={"EDITOR": r"sed -i -e s/\"cpus\":.7/\"cpus\":\ 2/", "KUBE_EDITOR": ""}, then={"instances/web-1": {".spec.cpus": 2}}),
    Check("edit inst web-1", err=("is invalid", "no valid changes"), env=EDIT_WRONG, code=1, then={"instances/web-1": {".spec.cpus": 2}}),
    Check("""patch inst web-1 --type=merge -p '{"spec":{"cpus":4}}'""", out="web-1 patched$", then={"instances/web-1": {".spec.cpus": 4}}),
    Check("""patch inst web-1 --type=merge -p '{"spec":{"cpus":4}}'""", out=r"patched \(no change\)"),
    Check("""patch inst web-1 --type=json -p '[{"op":"test","path":"/spec/cpus","value":4},{"op":"replace","path":"/spec/cpus","value":5}]'""", out="patched", then={"instances/web-1": {".spec.cpus": 5}}),
    Check("""patch inst web-1 --type=json -p '[{"op":"test","path":"/spec/cpus","value":4}]'""", err=r"invalid|Invalid", code=1),
    Check("""patch inst web-1 -p '{"spec":{"cpus":6}}'""", err="kubectl patch --type=merge", code=1, then={"instances/web-1": {".spec.cpus": 5}}),
    Check("""patch inst web-1 --type=merge -p '{"spec":{"cpus":6}}' --dry-run=server""", out="patched", then={"instances/web-1": {".spec.cpus": 5}}),
    Check("""patch inst web-1 --type=merge -p '{"spec":{"cpus":0}}'""", err=r"spec\.cpus", code=1),
    Check("""patch inst web-1 --type=merge --subresource=status -p '{"status":{"host":"x"}}'""", out="patched", since=24 ),
    Check("""patch -f web.yaml --type=merge -p '{"spec":{"displayName":"Web"}}' -o jsonpath={.spec.displayName}""", out="^Web$"),
    Check("label inst web-1 zone=a", out="labeled", then={"instances/web-1": {".metadata.labels.zone": "a"}}),
    Check("label inst web-1 zone=b", err="overwrite", code=1),
    Check("label inst web-1 zone=b --overwrite", out="labeled", then={"instances/web-1": {".metadata.labels.zone": "b"}} ),
    Check("label inst web-1 zone-", out="labeled|unlabeled", then={"instances/web-1": {".metadata.labels.zone": []}}),
    Check("label tmpl --all tested=yes", out="linux", then={"systemtemplates/linux": {".metadata.labels.tested": "yes"}} ),
    Check("label tmpl -l tested=yes tested-", out="linux", then={"systemtemplates/linux": {".metadata.labels.tested": []}} ),
    Check("label inst web-1 nano/owner=eve --overwrite", then={"instances/web-1": {".metadata.labels.app": "web"}}),
    Check("get inst -l nano/owner=admin -o name", out="web-1"),
    Check("annotate inst/web-1 note='two words'", out="annotated", then={"instances/web-1": {".metadata.annotations.note": "two words"}}),
    Check("annotate -f web.yaml note-", out="annotated|unannotated", then={"instances/web-1": {".metadata.annotations.note": []}}),
    Check("replace -f web-bigger.yaml", out="replaced", then={"instances/web-1": {".spec.cpus": 3, ".spec.displayName": ""}}),
    Check("replace -f web.yaml --dry-run=server", out="replaced", then={"instances/web-1": {".spec.cpus": 3}}),
    Check("replace -f template.yaml", err="NotFound", code=1),
    Check("replace -f pool.yaml --save-config", out="replaced", then={"addresspools/shop": {".spec.leaseSeconds": 3600}} ),
    Check("replace --force -f list.yaml", out="replaced", then={"systemtemplates/list-1": {".spec.diskBus": "Sata"}}),
    Check("replace --force -f list.yaml", out=("deleted", "replaced"), then={"systemtemplates/list-2": {".metadata.generation": 1}}),
    Check("apply -f webs.yaml -o name", err="last-applied-configuration", out=r"^instance\.nano/db-1$"),
    Check("apply -f folder -R", out=("folder-1 created", "folder-2 created")),
    Check("apply -f folder/one.yaml --prune --all --prune-allowlist=nano/v1/SystemTemplate", out=("folder-1 unchanged", "folder-2 pruned"), since=28, then={"systemtemplates/folder-2": None, "systemtemplates/linux": {".spec.family": "Linux"}}),
    Check("apply -k kustom", out=r"k-one created", then={"systemtemplates/k-one": {".spec.diskBus": "Sata"}}),
    Check("diff -k kustom", out=r"\A\Z"),
    Check("delete -k kustom", out="k-one", then={"systemtemplates/k-one": None}),
    Check("label inst web-1 --list", out="tier=front"),
    Check("apply set-last-applied -f pool-longer.yaml", out="configured"),
    Check("apply -f namespace.yaml", out="team-e created"),
    Check("apply -f namespace.yaml", out="team-e unchanged"),
    Check("diff -f namespace-changed.yaml", out=r"^\+ +tier: two", code=1),
    Check("apply -f namespace-changed.yaml", out="team-e configured", then={"namespaces/team-e": {".metadata.labels.tier": "two", ".metadata.labels.old": []}}),
    Check("""patch ns team-e -p '{"metadata":{"labels":{"tier":"three"}}}'""", out="patched", then={"namespaces/team-e": {".metadata.labels.tier": "three"}}),
    Check("edit ns team-e", out="edited", env={"EDITOR": "sed -i -e s/tier:.three/tier:\\ four/", "KUBE_EDITOR": ""}, then={"namespaces/team-e": {".metadata.labels.tier": "four"}}),
    Check("label ns team-e tier=five --overwrite", out="labeled", then={"namespaces/team-e": {".metadata.labels.tier": "five"}}),
    Check("annotate ns team-e note=x", out="annotated", then={"namespaces/team-e": {".metadata.annotations.note": "x"}}),
    Check("replace -f namespace.yaml", out="replaced", then={"namespaces/team-e": {".metadata.labels.tier": "one"}}),
    Check("apply -f pools.yaml --validate=ignore", out="p-2 created", since=27),
)

WAITING = (
    Check("create -f web.yaml", out="created"),
    Check("wait inst web-1 --for=condition=Ready --timeout=30s", out="condition met"),
    Check("wait inst/web-1 --for=condition=Ready=False --timeout=1s", err="timed out", code=1),
    Check("wait inst/web-1 --for=jsonpath='{.status.phase}'=Running --timeout=30s", out="condition met", since=23),
    Check("wait inst/web-1 --for=jsonpath='{.status.host}' --timeout=30s", out="condition met", since=31),
    Check("wait inst --all -A --for=condition=Ready --timeout=30s", out="web-1 condition met"),
    Check("wait inst/web-1 --for=jsonpath='{.spec.cpus}'=9 --timeout=20s", out="condition met", since=23, meanwhile=("""patch inst web-1 --type=merge -p '{"spec":{"cpus":9}}'""",)),
    Check("wait tmpl/t-1 --for=create --timeout=20s", out="condition met", since=31, meanwhile=("create -f template.yaml",)),
    Check("apply -f template.yaml --validate=false", warns=True, out="t-1"),
    Check("wait tmpl/t-1 --for=delete --timeout=20s", meanwhile=("delete tmpl t-1",), out="condition met|deleted", then={"systemtemplates/t-1": None}),
    Check("wait tmpl/t-1 --for=delete --timeout=5s", since=30),
    Check("wait inst -l app=web --for=condition=Ready --timeout=30s", out="web-1 condition met"),
    Check("wait inst -l app=nothing --for=condition=Ready --timeout=1s", err="no matching resources", code=1),
    Check("get tmpl -w --request-timeout=5s", out=(r"^linux ", r"^list-1 +Other .*Sata", r"^list-1 +Other .*Ide"), meanwhile=("create -f list.yaml", """patch tmpl list-1 --type=merge -p '{"spec":{"diskBus":"Ide"}}'""")),
    Check("get tmpl -w --output-watch-events --request-timeout=5s", out=(r"^ADDED +list-1 ", r"^MODIFIED +list-1 ", r"^DELETED +list-2 "), meanwhile=("""patch tmpl list-1 --type=merge -p '{"spec":{"diskBus":"Scsi"}}'""", "delete tmpl list-2")),
    Check("get inst web-1 --watch-only -o jsonpath='{.spec.cpus}{\"\\n\"}' --request-timeout=2500ms", out="^5$", meanwhile=("""patch inst web-1 --type=merge -p '{"spec":{"cpus":5}}'""",)),
    Check("get tmpl -w -l in=list -o name --request-timeout=5s", out="list-1", never="linux", meanwhile=("label tmpl list-1 in-", "label tmpl list-1 in=list")),
    Check("get events -w --request-timeout=2500ms", out="web-1.*Placed on"),
)

DELETING = (
    Check("create -f webs.yaml", out="web-1 created"),
    Check("create -f list.yaml", out="created"),
    Check("create -f folder", out="created"),
    Check("create -f pools.yaml", out="created"),
    Check("delete inst web-1 --dry-run=server", out=r"deleted.*\(server dry run\)", then={"instances/web-1": {".metadata.deletionTimestamp": []}}),
    Check("delete inst web-1 --dry-run=client", out=r"deleted.*\(dry run\)", then={"instances/web-1": {".metadata.deletionTimestamp": []}}),
    Check("delete inst web-1", out='instance.nano "web-1" deleted', then={"instances/web-1": None, "volumes/web-1.system": None}),
    Check("delete inst web-1", err="NotFound", code=1),
    Check("delete inst web-1 --ignore-not-found", out=r"\A\Z"),
    Check("delete -f list.yaml -o name", out=("^systemtemplate.nano/list-1$",), then={"systemtemplates/list-2": None}),
    Check("delete tmpl -l in=folder", out=("folder-1", "folder-2"), then={"systemtemplates/folder-1": None, "systemtemplates/linux": {".spec.family": "Linux"}}),
    Check("delete inst -l app=web --wait=false", out="web-2", then={"instances/db-1": {".metadata.deletionTimestamp": []}} ),
    Check("delete apool --field-selector metadata.name=p-1", out="p-1", since=21, then={"addresspools/p-1": None, "addresspools/p-2": {".metadata.name": "p-2"}}),
    Check("delete inst --all", out="db-1", then={"instances/db-1": None}),
    Check("delete cpool default", err=r"(?i)conflict|still used", code=1),
    Check("create -f kept.yaml", out="created"),
    Check("delete tmpl kept --timeout=1s", code=1, err="timed out", then={"systemtemplates/kept": {".metadata.finalizers[*]": "example.com/keep"}}),
    Check("delete tmpl kept --timeout=20s", out="kept", then={"systemtemplates/kept": None}, meanwhile=("""patch tmpl kept --type=merge -p '{"metadata":{"finalizers":null}}'""",)),
    Check("create -f family.yaml", out=("parent created", "child created")),
    Check(f"patch tmpl child --type=merge -p '{BELONGS}'", out="patched"),
    Check("delete tmpl parent --cascade=foreground --wait=false", out="parent"),
    Check("wait tmpl/parent --for=delete --timeout=1s", err="timed out", code=1, then={"systemtemplates/parent": {".metadata.finalizers[*]": "foregroundDeletion"}}),
    Check("""patch tmpl child --type=merge -p '{"metadata":{"finalizers":null}}'""", out="systemtemplate.nano/child patched", then={"systemtemplates/child": None}),
    Check("wait tmpl/parent --for=delete --timeout=10s", since=30, then={"systemtemplates/parent": None}),
    Check("create -f family.yaml", out=("parent created", "child created")),
    Check(f"patch tmpl child --type=merge -p '{BELONGS}'", out="patched"),
    Check("delete tmpl parent --cascade=orphan", out="parent", then={"systemtemplates/parent": None, "systemtemplates/child": {".metadata.ownerReferences[*].name": [], ".metadata.deletionTimestamp": []}}),
    Check("""patch tmpl child --type=merge -p '{"metadata":{"finalizers":null}}'""", out="systemtemplate.nano/child patched"),
    Check("delete tmpl child --grace-period=0 --force", err="(?i)immediate deletion", out="child", then={"systemtemplates/child": None}),
    Check("create ns team-d", out="created"),
    Check("create -f team-d.yaml", out="created"),
    Check("delete ns team-d", err=r"still holds \d objects", code=1),
    Check("delete inst --all -n team-d", out="in-d"),
    Check("delete namespaces/team-d", out="deleted", then={"namespaces/team-d": None}),
    Check("delete --raw /apis/nano/v1/addresspools/p-2", out="Success", since=18, then={"addresspools/p-2": None}),
    Check("create --raw /apis/nano/v1/systemtemplates -f raw.json", out='"name":"raw"', then={"systemtemplates/raw": {".spec.family": "Bsd"}}),
)

SETS = (
    Check("get --raw /apis/nano/v1", out=r'"name":"instancesets/scale","singularName":"","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale"'),
    Check("explain iset.spec.template.spec.disks.source", out="image"),
    Check("auth can-i update instancesets --subresource=scale", out="^yes$"),
    Check("create -f set-wrong.yaml", err=r"spec\.template\.spec\.memory", code=1, then={"instancesets/wrong": None}),
    Check("create -f set.yaml", out=r"^instanceset\.nano/front created$"),
    Check("wait iset/front --for=condition=Ready --timeout=30s", out="condition met", then={"instances/front-3": {".status.phase": "Running", ".metadata.ownerReferences[*].name": "front"}}),
    Check("get instancesets", out=(r"^NAME +DESIRED +CURRENT +READY +AGE", r"^front +3 +3 +3 +\d+s")),
    Check("get instanceset front -o wide", out=("OUTDATED", "nano/instance-set=front")),
    Check("get all", out=(r"^instanceset\.nano/front ", r"^instance\.nano/front-1 ")),
    Check("get inst -l nano/instance-set=front -o name", out=("front-1", "front-3")),
    Check("describe iset front", out=("Replicas: +3", "MembersReady")),
    Check("scale iset/front --replicas=5", out="front scaled", then={"instancesets/front": {".spec.replicas": 5, ".spec.nameRule": "{name}-{index}"}}),
    Check("wait iset/front --for=jsonpath='{.status.readyReplicas}'=5 --timeout=30s", out="condition met", since=23),
    Check("scale instancesets front --replicas=4 --current-replicas=5", out="front scaled", then={"instancesets/front": {".spec.replicas": 4}}),
    Check("scale iset/front --replicas=1 --current-replicas=9", err="(?i)expected replicas to be 9, was 4", code=1, then={"instancesets/front": {".spec.replicas": 4}}),
    Check("scale iset/front --replicas=1 --resource-version=1", err="(?i)expected resource version to be 1|conflict", code=1, then={"instancesets/front": {".spec.replicas": 4}}),
    Check("scale iset/front --replicas=9 --dry-run=server", out="front scaled", since=21, then={"instancesets/front": {".spec.replicas": 4}}),
    Check("scale iset/front --replicas=1001", err=r"spec\.replicas", code=1),
    Check("scale inst/front-1 --replicas=2", err="(?i)not ?found|could not find", code=1),
    Check("scale iset/nope --replicas=2", err="NotFound|not found", code=1),
    Check("get iset front --subresource=scale -o jsonpath='{.kind} {.apiVersion} {.spec.replicas}'", out=r"^Scale autoscaling/v1 4$", since=24),
    Check("get iset front --subresource=scale", out="front", since=24),
    Check("""patch iset front --subresource=scale --type=merge -p '{"spec":{"replicas":3}}'""", out="front scaled|patched", since=24, then={"instancesets/front": {".spec.replicas": 3}}),
    Check("""patch iset front --type=json -p '[{"op":"replace","path":"/spec/replicas","value":2}]'""", out="patched", then={"instancesets/front": {".spec.replicas": 2}}),
    Check("wait iset/front --for=condition=Ready --timeout=30s", out="condition met", then={"instances/front-3": None, "instances/front-2": {".status.phase": "Running"}}),
    Check("apply --server-side -f set-changed.yaml --force-conflicts", out="serverside-applied|configured", since=16, then={"instancesets/front": {".spec.replicas": 3, ".spec.template.spec.cpus": 2}}),
    Check("wait iset/front --for=condition=TemplateCurrent=False --timeout=30s", out="condition met", then={"instances/front-1": {".spec.cpus": 1}, "instancesets/front": {".status.outdatedReplicas": 2}}),
    Check("""patch iset front --type=merge -p '{"spec":{"nameRule":"x-{index}"}}'""", err=r"spec\.nameRule", code=1),
    Check("delete inst front-1", out="front-1"),
    Check("wait iset/front --for=condition=Ready --timeout=30s", out="condition met", then={"instances/front-1": {".spec.cpus": 2}}),
    Check("scale iset/front --replicas=0 --current-replicas=3", out="front scaled", then={"instancesets/front": {".spec.replicas": 0}}),
    Check("wait iset/front --for=condition=Ready --timeout=30s", out="condition met", then={"instances/front-1": None}),
    Check("scale iset/front --replicas=2", out="scaled"),
    Check("wait iset/front --for=condition=Ready --timeout=30s", out="condition met"),
    Check("delete iset front --cascade=foreground", out='instanceset.nano "front" deleted', since=20, then={"instancesets/front": None, "instances/front-1": None, "instances/front-2": None}),
    Check("create -f set.yaml", out="created"),
    Check("wait iset/front --for=condition=Ready --timeout=30s", out="condition met"),
    Check("delete iset front --cascade=orphan", out="deleted", since=20, then={"instancesets/front": None, "instances/front-1": {".status.phase": "Running", ".metadata.ownerReferences[*].name": []}}),
    Check("delete inst -l app=front", out=("front-1", "front-3"), then={"instances/front-1": None}),
    Check("create -f set.yaml", out="created"),
    Check("wait iset/front --for=condition=Ready --timeout=30s", out="condition met"),
    Check("delete iset --all", out="front", then={"instancesets/front": None}),
)

PLUGIN = (
    Check("plugin list", out="kubectl-nano"),
    Check("nano version", out="(?i)nano"),
    Check("nano get instances -A", err="No instances found"),
    Check("nano apply -f template.yaml", out="t-1", then={"systemtemplates/t-1": {".spec.diskBus": "Sata"}}),
    Check("nano get tmpl", out="t-1"),
    Check("nano nonsense", err="no command", code=2),
)

SECTIONS = {
    "discovery": DISCOVERY,
    "rights": RIGHTS,
    "creating": CREATING,
    "reading": READING,
    "changing": CHANGING,
    "waiting": WAITING,
    "deleting": DELETING,
    "sets": SETS,
    "plugin": PLUGIN,
}
"""Each begins and ends with an empty cluster of two simulated hosts."""
