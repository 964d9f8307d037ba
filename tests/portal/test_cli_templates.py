"""`nanoctl get -o jsonpath=...` and `-o custom-columns=...`, with what kubectl 1.32 printed for the same templates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nanovirt.portal.cli import json_path, templates
from nanovirt.resources.errors import Malformed
from tests.portal.cli_world import Cluster, cluster

JSON = dict[str, Any]
POD: JSON = {
    "metadata": {"name": "web-1", "labels": {"app.kubernetes.io/name": "web", "tier": "front"}},
    "spec": {
        "hostNetwork": True,
        "priority": 7,
        "containers": [
            {"name": "a", "image": "one", "ports": [{"port": 80, "name": "http"}, {"port": 443, "name": "https"}]},
            {"name": "b", "image": "two", "tty": True},
            {"name": "c", "image": "three"},
        ],
    },
    "odd": [
        {"is": "null", "d": None},
        {"is": "text", "d": "app=web && tier!=a", "a==b": "x"},
        {"is": "sign", "d": ">= 5 =~ <"},
        {"is": "absent"},
    ],
    "slashed": {"a.b/c(d)": "key"},
}


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        ("{.metadata.name}", "web-1"),
        ("{$.metadata.name}{@.metadata.name}", "web-1web-1"),
        ("{.spec.hostNetwork} {.spec.priority}", "true 7"),
        ("{.metadata.labels}", '{"app.kubernetes.io/name":"web","tier":"front"}'),
        (r"{.metadata.labels.app\.kubernetes\.io/name}", "web"),
        (r"{.metadata.labels['app\.kubernetes\.io/name']}", "web"),
        ("{.metadata.labels['app.kubernetes.io/name']}", "web"),
        ("{.metadata['labels.tier']}", "front"),
        ("{.metadata['name','namespace']}", "web-1"),
        ("{.metadata.labels.*}", "web front"),
        ("{.spec.containers[*].name}", "a b c"),
        ("{.spec.containers.*.name}", "a b c"),
        ("x{.spec.containers[1:].name}y", "xb cy"),
        ("{.spec.containers[-1].name}", "c"),
        ("{.spec.containers[-2:].name}", "b c"),
        ("{.spec.containers[0,2].name}", "a c"),
        ("{.spec.containers[::2].name}", "a c"),
        ("{.spec.containers[0].ports}", '[{"port":80,"name":"http"},{"port":443,"name":"https"}]'),
        ('{.spec.containers[?(@.name=="b")].image}', "two"),
        ("{.spec.containers[?(@.name!='b')].image}", "one three"),
        ("{.spec.containers[?(@.tty==true)].name}", "b"),
        ("{.spec.containers[?(@.ports)].name}", "a"),
        ("{.spec.containers[0].ports[?(@.port>100)].name}", "https"),
        ("{.spec.containers[?(@.ports[0].name=='http')].name}", "a"),
        ("{.spec.containers[?(@.name>1)].name}", ""),
        ("{.odd[?(@.d==null)].is}", "null"),
        ("{.odd[?(@.d!=null)].is}", "text sign"),
        ("{.odd[?(@.d=='null')].is}", ""),
        ('{.odd[?(@.d=="app=web && tier!=a")].is}', "text"),
        ("{.odd[?(@.d=='>= 5 =~ <')].is}", "sign"),
        ("{.odd[?(@['a==b']==\"x\")].is}", "text"),
        ("{.slashed['a.b/c(d)']}", "key"),
        ("{.slashed['a.b/c(e)']}", ""),
        ("{.spec.containers[:].name} {.spec.containers[:2:01].name}", "a b c a b"),
        ("{..port}", "80 443"),
        ("{.spec.absent}{.spec.containers[9].name}{.metadata.name.more}", ""),
        (r'{range .spec.containers[*]}{.name}{"\t"}{.image}{"\n"}{end}', "a\tone\nb\ttwo\nc\tthree\n"),
        ("{range .spec.containers[*]}{.name}:{range .ports[*]}{.name},{end};{end}", "a:http,https,;b:;c:;"),
        ("{'{'}{.metadata.name}{'}'}", "{web-1}"),
        ("no path", "no path"),
    ],
)
def test_a_template_prints_what_kubectl_prints(said: str, printed: str) -> None:
    assert templates.filled(templates.template(said), POD) == printed


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("{.a b}", "' b' is not understood"),
        ("{.items[x]}", "[x] is not understood; write [*], [0]"),
        ("{.items[]}", "[] is not understood"),
        ("{.items[::0]}", "[::0] is not understood"),
        ("{.items[::00]}", "[::00] is not understood"),
        ("{.items[5-3]}", "[5-3] is not understood"),
        (f"{{.items[{'9' * 5000}]}}", "is not understood"),
        ("{.items[1-0]}", "[1-0] is not understood"),
        ("{.items[?(@.a<null)]}", "null is neither more nor less: write == or !="),
        ("{.items[?(@.a==\"b\" && @.c=='d')]}", "write one comparison"),
        ("{.items[0}", "lacks its ']'"),
        ("{.items[?(@.a==b)]}", 'write the value b in quotes: "b"'),
        ("{.items[?(@.a=='b' && @.c=='d')]}", "write one comparison"),
        ("{.items[?(@.a=~'b')]}", "write one comparison"),
        ("{end}", "{end} ends no {range ...}"),
        ("{range .items[*]}{.a}", "{range ...} lacks its {end}"),
        ("{range}{end}", "write what to go through"),
        ("{", "a brace in '{' has no other"),
        ("{}", "the whole object is {@}"),
        (".metadata.name", "write paths in braces: '{.metadata.name}'"),
    ],
)
def test_what_is_not_understood_of_a_template_is_said(said: str, why: str) -> None:
    with pytest.raises(Malformed) as refused:
        templates.template(said)
    assert why in str(refused.value)


def test_columns_are_paths_whose_commas_and_colons_may_stand_in_brackets() -> None:
    wanted = templates.columns("A:metadata.name,B:{.spec.containers[0:2].name},C:.spec.containers[0,2].name,D:.no")
    grid = templates.grid([POD], wanted)
    assert grid.headings == ["A", "B", "C", "D"]
    assert grid.rows == [["web-1", "a,b", "a,c", "<none>"]]


@pytest.mark.parametrize("said", ["", "NAME", ":.metadata.name", "NAME:", "NAME:.metadata.name,", "NAME:.a b"])
def test_columns_that_make_no_sense_are_refused(said: str) -> None:
    with pytest.raises(Malformed):
        templates.columns(said)


def test_a_hostile_depth_of_brackets_is_no_program_of_its_own() -> None:
    with pytest.raises(Malformed):
        json_path.parse("[" * 10_000)


# --- against the API ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cli")) as made:
        made.library()
        for name in ("web-1", "web-2"):
            made.says("run", name, "--image", "shared/mini", "--cpus", "2")
        made.running("web-1")
        yield made


def test_get_fills_a_template_with_one_object_or_with_a_list(running: Cluster) -> None:
    where = "jsonpath={.status.host} {.status.addresses[?(@.nic=='nic0')].ip}"
    assert running.says("get", "instance/web-1", "-o", where) == "node-1 10.20.0.50"
    each = '{range .items[*]}{.metadata.name}={.spec.cpus}{"\\n"}{end}'
    assert running.says("get", "instances", f"-ojsonpath={each}") == "web-1=2\nweb-2=2\n"


def test_get_prints_columns_of_ones_own(running: Cluster) -> None:
    wanted = "custom-columns=NAME:.metadata.name,IP:.status.addresses[*].ip"
    assert [line.split() for line in running.says("get", "instances", "-o", wanted).splitlines()] == [
        ["NAME", "IP"],
        ["web-1", "10.20.0.50"],
        ["web-2", "<none>"],
    ]
    assert running.says("get", "instance/web-1", "-o", wanted, "--no-headers").split() == ["web-1", "10.20.0.50"]


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("go-template={{.metadata.name}}", "templates of Go are not known here: write -o jsonpath='{.status.phase}'"),
        ("jsonpath-file=x", "write -o jsonpath="),
        ("jsonpath", "say what to print: -o jsonpath='{.status.phase}'"),
        ("custom-columns=", "say what to print: -o custom-columns=NAME:.metadata.name"),
        ("jsonpath={.a b}", "' b' is not understood"),
        ("custom-columns=NAME", "write HEADING:PATH"),
        ("xml", "'xml' is none of json, yaml, name, wide, jsonpath=TEMPLATE, custom-columns=COLUMNS"),
        ("json=x", "'json=x' is none of"),
    ],
)
def test_an_output_that_is_not_known_is_refused_with_what_is(running: Cluster, output: str, why: str) -> None:
    result = running.nanoctl("get", "instances", "-o", output)
    assert result.exit_code == 2
    assert why in result.stderr
    assert "--watch follows" in running.nanoctl("get", "instances", "-w", "-o", "jsonpath={.kind}").stderr
