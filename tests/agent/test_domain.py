"""The definition of a domain: golden XML for each system template, what it may never hold, and reading it back."""

from collections import Counter
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import Element

import pytest
from defusedxml import ElementTree
from hypothesis import given
from hypothesis import strategies as st

from nanovirt.agent.continuity import Kept, kept
from nanovirt.agent.disk_names import letters, serial
from nanovirt.agent.domain import render, screen_trouble
from nanovirt.agent.hardware import attribute
from nanovirt.agent.mark import NAMESPACE, Mark, mark_text, read_mark
from nanovirt.agent.platform import Platform
from nanovirt.agent.taps import LEASED, PHYSICAL, tap
from nanovirt.resources.defaults import defaults
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.placement import PlacementSpec
from nanovirt.resources.qos import DiskQos, NetworkQos
from nanovirt.resources.system_template import Devices, SystemTemplate
from tests.agent.placements import SHA, spec, uuid
from tests.conftest import Golden

TEMPLATES = {one.metadata.name: one.spec for one in defaults() if isinstance(one, SystemTemplate)}
DIGEST = "0123456789abcdef"
VOLUMES = Path("/var/lib/nano/volumes")


def platform(accelerator: Literal["kvm", "tcg"] = "tcg") -> Platform:
    folder = Path("/var/lib/nano/agent")
    return Platform(accelerator, folder / "images", folder / "consoles", direct=frozenset({VOLUMES}))


def machine(template: str, **changes: Any) -> PlacementSpec:
    """With an overlay, an empty disk, a card with a lease and one without."""
    devices = {name: getattr(TEMPLATES[template], name) for name in Devices.model_fields}
    system = {
        "name": "system",
        "file": f"{VOLUMES}/system.qcow2",
        "size": "20Gi",
        "source": {"image": "shared/debian-12", "sha256": SHA},
    }
    data = {"name": "data", "file": f"{VOLUMES}/data.qcow2", "size": "100Gi"}
    base = spec()
    leased = base.nics[0]
    plain = {"name": "backup", "mac": "52:54:00:00:01:ff", "bridge": "br1", "mtu": 9000, "model": devices["nic_model"]}
    return spec(
        domain={"uuid": uuid(1), "name": f"default.{template}", **devices},
        volumes=[
            {**one, "file": f"{VOLUMES}/{one['name']}.qcow2", "bus": devices["disk_bus"]} for one in (system, data)
        ],
        nics=[leased.model_copy(update={"model": devices["nic_model"]}), plain],
        **changes,
    )


def parsed(wanted: PlacementSpec, **more: Any) -> Element:
    found: Element = ElementTree.fromstring(render(wanted, DIGEST, platform(), **more))
    return found


@pytest.mark.parametrize("accelerator", ["tcg", "kvm"])
@pytest.mark.parametrize("template", list(TEMPLATES))
def test_definition_is_the_golden_one(golden: Golden, template: str, accelerator: Literal["kvm", "tcg"]) -> None:
    golden(f"domain/{template}-{accelerator}.xml", render(machine(template), DIGEST, platform(accelerator)))


@pytest.mark.parametrize("accelerator", ["tcg", "kvm"])
def test_definition_of_a_machine_with_all_that_can_be_wished_is_the_golden_one(
    golden: Golden, accelerator: Literal["kvm", "tcg"]
) -> None:
    """Secure Boot, limits, room to grow, a drive with a medium and an empty one, an order to boot in, a VLAN."""
    plain = machine("linux")
    limits = {"readBytesPerSecond": "200Mi", "writeIops": 500}
    rates = {"inboundBitsPerSecond": "200M", "outboundBitsPerSecond": "100M"}
    wanted = machine(
        "linux", max_cpu=8, max_memory="4Gi", qos={"priority": "High", "limit": "1500m"},
        media=[{"name": "cd0", "image": {"image": "iso", "sha256": SHA}}, {"name": "cd1"}],
        boot_order=["cd0", "system", "backup"],
    )  # fmt: skip
    domain = plain.domain.model_copy(update={"secure_boot": True})
    volume = plain.volumes[1].model_copy(update={"qos": DiskQos.model_validate(limits)})
    nic = plain.nics[1].model_copy(update={"qos": NetworkQos.model_validate(rates), "vlan": 40})
    parts = {"domain": domain, "volumes": (plain.volumes[0], volume), "nics": (plain.nics[0], nic)}
    whole = render(wanted.model_copy(update=parts), DIGEST, platform(accelerator))
    golden(f"domain/everything-{accelerator}.xml", whole)


@pytest.mark.parametrize(("template", "model"), [("linux", "tpm-crb"), ("linux-bios", "tpm-tis")])
def test_tpm_is_one_that_the_firmware_knows(template: str, model: str) -> None:
    plain = machine(template)
    found = parsed(plain.model_copy(update={"domain": plain.domain.model_copy(update={"tpm": True})}))
    assert [one.get("model") for one in found.iterfind("devices/tpm")] == [model]
    assert plain.domain.tpm is False
    assert parsed(plain).find("devices/tpm") is None


def test_devices_stay_where_they_were_and_new_ones_of_a_running_machine_get_a_free_place() -> None:
    """What is written here by hand is what libvirt makes of a definition."""
    place = '<address type="pci" domain="0x0000" bus="0x0{}" slot="0x00" function="0x0" />'
    before = render(machine("linux"), DIGEST, platform(), Kept("pc-q35-7.2")).replace("q35</type>", "q35</type>")
    before = before.replace('machine="q35"', 'machine="pc-q35-7.2"')
    before = before.replace("<serial>data</serial>", f"<serial>data</serial>{place.format(7)}")
    running = before.replace("<serial>system</serial>", f"<serial>system</serial>{place.format(1)}")
    more = {**machine("linux").volumes[0].model_dump(), "name": "new", "file": f"{VOLUMES}/new.qcow2", "source": None}
    wanted = machine("linux")
    wanted = PlacementSpec.model_validate({**dict(wanted), "volumes": [more, *wanted.volumes]})
    found = parsed(wanted, kept=kept(before, started=True, running=running))
    at = {
        disk.findtext("serial"): (attribute(disk, "target", "dev"), attribute(disk, "address", "bus"))
        for disk in found.iterfind("devices/disk[@device='disk']")
    }
    assert at == {"new": ("vdc", "0x02"), "system": ("vda", "0x01"), "data": ("vdb", "0x07")}


@pytest.mark.parametrize("template", list(TEMPLATES))
def test_screen_is_reached_through_a_unix_socket_only(template: str) -> None:
    for graphics in parsed(machine(template)).iter("graphics"):
        assert [listen.attrib for listen in graphics.iter("listen")] == [{"type": "socket"}]
        assert not {"port", "listen", "websocket"} & set(graphics.attrib)


def test_every_layer_of_a_disk_has_its_format_written() -> None:
    for disk in parsed(machine("linux")).iterfind("devices/disk[@device='disk']"):
        driver = disk.find("driver")
        assert driver is not None
        assert driver.get("type") == "qcow2"
        below = disk.find("backingStore")
        assert below is not None, "without it, libvirt would guess from what the guest wrote"
        for layer in disk.iter("backingStore"):
            assert not list(layer) or (layer.find("format") is not None and layer.find("backingStore") is not None)


def test_page_cache_is_gone_round_only_where_the_file_system_allows_it() -> None:
    elsewhere = machine("linux")
    moved = elsewhere.volumes[1].model_copy(update={"file": "/other/data.qcow2"})
    found = parsed(elsewhere.model_copy(update={"volumes": (elsewhere.volumes[0], moved)}))
    assert [driver.get("cache") for driver in found.iterfind("devices/disk[@device='disk']/driver")] == [
        "none",
        "writeback",
    ]


def test_tap_tells_the_firewall_who_gives_the_address() -> None:
    leased, physical = machine("linux").nics
    assert tap(leased) == f"{LEASED}525400000001"
    assert tap(physical) == f"{PHYSICAL}5254000001ff"
    assert max(len(tap(leased)), len(tap(physical))) <= 15, "the kernel's limit"


def test_processors_are_cores_of_one_socket() -> None:
    topology = parsed(machine("linux", cpu=6)).find("cpu/topology")
    assert topology is not None
    assert topology.attrib == {"sockets": "1", "cores": "6", "threads": "1"}


def test_number_of_the_machine_type_is_kept() -> None:
    for before, after in (("pc-q35-7.2", "pc-q35-7.2"), ("pc-i440fx-7.2", "q35"), ("", "q35")):
        found = parsed(machine("linux"), kept=Kept(before)).find("os/type")
        assert found is not None
        assert found.get("machine") == after


def test_what_is_kept_is_read_from_the_definition_before() -> None:
    before = render(machine("linux"), DIGEST, platform(), Kept("pc-q35-7.2"))
    found = kept(before, started=True)
    assert (found.machine, found.started, found.running) == ("pc-q35-7.2", True, False)


def test_disk_of_an_image_that_is_no_hash_is_refused() -> None:
    wanted = machine("linux")
    source = wanted.volumes[0].source
    assert source is not None
    bad = wanted.volumes[0].model_copy(update={"source": source.model_copy(update={"sha256": "../../../etc/shadow"})})
    with pytest.raises(HypervisorError):
        render(wanted.model_copy(update={"volumes": (bad,)}), DIGEST, platform())


def test_many_disks_have_names_of_their_own() -> None:
    assert [letters(number) for number in (0, 25, 26, 27, 51, 52, 701, 702)] == [
        "a",
        "z",
        "aa",
        "ab",
        "az",
        "ba",
        "zz",
        "aaa",
    ]


def test_serials_of_long_names_fit_and_differ() -> None:
    one, other = "a-very-long-name-for-a-disk-1", "a-very-long-name-for-a-disk-2"
    assert serial("system") == "system"
    assert serial(one) != serial(other)
    assert max(len(serial(one)), len(serial("x" * 63))) == 20


@given(st.builds(Mark, st.text("0123456789abcdef"), *[st.integers(0, 2**60)] * 3, st.booleans()))
def test_mark_reads_back(mark: Mark) -> None:
    assert read_mark(mark_text(mark)) == mark


@pytest.mark.parametrize(
    "text", ["", "<", "<placement", '<placement epoch="x"/>', '<!DOCTYPE a [<!ENTITY b "c">]><placement digest="&b;"/>']
)
def test_what_is_no_mark_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"mark|literal|Entities"):
        read_mark(text)


TEXT = st.text(st.characters(exclude_categories=()), max_size=30)


def hostile(name: str, digest: str, file: str, bridge: str, disk: str) -> PlacementSpec:
    """Texts that no validation has seen."""
    plain = machine("linux")
    volume = plain.volumes[0].model_copy(update={"file": file, "name": disk})
    return plain.model_copy(
        update={
            "domain": plain.domain.model_copy(update={"name": name}),
            "volumes": (volume, *plain.volumes[1:]),
            "nics": (plain.nics[0].model_copy(update={"bridge": bridge}), *plain.nics[1:]),
            "hostname": digest,
        }
    )


PLAIN_TAGS = Counter(one.tag for one in parsed(machine("linux")).iter())


@given(name=TEXT, digest=TEXT, file=TEXT, bridge=TEXT, disk=TEXT)
def test_any_text_comes_back_as_it_was_and_never_as_another_element(
    name: str, digest: str, file: str, bridge: str, disk: str
) -> None:
    try:
        text = render(hostile(name, digest, file, bridge, disk), digest, platform())
    except HypervisorError:
        return  # it holds what XML cannot carry, and nothing was written
    found = ElementTree.fromstring(text)
    assert Counter(one.tag for one in found.iter()) == PLAIN_TAGS
    mark = found.find(f"metadata/{{{NAMESPACE}}}placement")
    source, card = found.find("devices/disk/source"), found.find("devices/interface/source")
    assert mark is not None
    assert source is not None
    assert card is not None
    assert found.findtext("name") == name
    assert found.findtext("devices/disk/serial") == serial(disk)
    assert (mark.get("digest"), source.get("file"), card.get("bridge")) == (digest, file, bridge)


@pytest.mark.parametrize("name", ["a\x00b", "a\rb", "a\nb", "\ud800", "\uffff", "\x85"])
def test_text_that_xml_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(HypervisorError, match="U\\+"):
        render(hostile(name, "", "", "", ""), DIGEST, platform())


@pytest.mark.parametrize("name", ["<a/>", "]]>", "&amp;", "'\"><x y='", "官网前端 1", "🐳"])
def test_text_that_looks_like_xml_is_only_text(name: str) -> None:
    found = ElementTree.fromstring(render(hostile(name, "", "", "", ""), DIGEST, platform()))
    assert found.findtext("name") == name


@pytest.mark.parametrize(("template", "bus", "target"), [("linux", "scsi", "sdz"), ("windows", "sata", "sdr")])
def test_seed_is_a_drive_that_can_only_be_read(template: str, bus: str, target: str) -> None:
    found = parsed(machine(template)).findall("devices/disk[@device='cdrom']")
    assert len(found) == 1
    [drive] = found
    assert drive.find("readonly") is not None
    where, source = drive.find("target"), drive.find("source")
    assert where is not None
    assert source is not None
    assert (where.get("bus"), where.get("dev")) == (bus, target)
    assert source.attrib == {"file": f"/var/lib/nano/agent/seeds/{uuid(1)}.iso", "startupPolicy": "optional"}


def test_old_machine_without_a_word_to_its_guest_has_no_seed() -> None:
    assert parsed(machine("legacy")).find("devices/disk[@device='cdrom']") is None


DISPLAY = "<domain><devices>{}</devices></domain>"


@pytest.mark.parametrize(
    ("graphics", "fine"),
    [
        ("<graphics type='vnc'><listen type='socket' socket='/run/x.sock'/></graphics>", True),
        ("<graphics type='vnc' port='-1'><listen type='none'/></graphics>", True),
        ("<graphics type='vnc' port='5900'><listen type='address' address='127.0.0.1'/></graphics>", False),
        ("<graphics type='vnc' port='5900'/>", False),
        ("<graphics type='spice' port='5901'><listen type='none'/></graphics>", False),
        ("", False),
    ],
)
def test_display_that_others_can_reach_is_refused(graphics: str, fine: bool) -> None:
    assert (screen_trouble(DISPLAY.format(graphics)) == "") is fine
