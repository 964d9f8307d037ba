"""What libvirt does to a domain, in a thread of Hypervisor's, whose methods of the same names give the contracts."""

from __future__ import annotations

import contextlib
import time
from socket import socket
from typing import Any, Final

import libvirt
from defusedxml import ElementTree

from nanovirt.agent import hypervisor_looks as looks
from nanovirt.agent.domain import screen_trouble
from nanovirt.agent.mark import NAMESPACE, PREFIX, mark_text
from nanovirt.resources.errors import Conflict, HypervisorError

SCREENSHOT_MAX: Final = 32 << 20
"""Bytes: 8K in noise is less, as PNG."""
UNDEFINE: Final = (
    libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)


def define(connection: Any, xml: str) -> None:
    wanted = ElementTree.fromstring(xml)
    before, name = looks.find(connection, wanted.findtext("uuid") or ""), wanted.findtext("name")
    if before is not None and before.name() != name and not before.isActive():
        before.rename(name, 0)  # a definition with another name does not take its place
    domain = connection.defineXML(xml)
    if domain.autostart():
        domain.setAutostart(0)


def undefine(connection: Any, uuid: str) -> None:
    domain = looks.find(connection, uuid)
    if domain is None:
        return
    if domain.isActive():
        raise HypervisorError(f"{domain.name()} runs; end it before it is forgotten", libvirt.VIR_ERR_OPERATION_INVALID)
    domain.undefineFlags(UNDEFINE)


def start(connection: Any, uuid: str) -> None:
    domain = connection.lookupByUUIDString(uuid)
    if domain.isActive():
        return
    mark = looks.mark(domain, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    if mark.digest and not mark.started:  # libvirtd forgets it when it ends; the definition does not
        kind, where = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_AFFECT_CONFIG
        domain.setMetadata(kind, mark_text(mark._replace(started=True)), PREFIX, NAMESPACE, where)
    try:
        domain.createWithFlags(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or not domain.isActive():
            raise


def suspend(connection: Any, uuid: str) -> None:
    domain = connection.lookupByUUIDString(uuid)
    if domain.state()[0] not in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED):
        domain.suspend()


def resume(connection: Any, uuid: str) -> None:
    domain = connection.lookupByUUIDString(uuid)
    state, _reason = domain.state()
    if state == libvirt.VIR_DOMAIN_PMSUSPENDED:
        domain.pMWakeup(0)
    elif state != libvirt.VIR_DOMAIN_RUNNING:
        domain.resume()


def shut_down(connection: Any, uuid: str) -> None:
    with _unless_off(connection, uuid):
        connection.lookupByUUIDString(uuid).shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)


def destroy(connection: Any, uuid: str) -> None:
    with _unless_off(connection, uuid):
        connection.lookupByUUIDString(uuid).destroyFlags(libvirt.VIR_DOMAIN_DESTROY_DEFAULT)


def _off(domain: Any) -> Conflict:
    """Our domains are called NAMESPACE.INSTANCE."""
    instance = domain.name().rpartition(".")[2]
    return Conflict("instances", instance, "it does not run, so there is nothing to be seen")


def screen(connection: Any, uuid: str) -> socket:
    domain = connection.lookupByUUIDString(uuid)
    if not domain.isActive():
        raise _off(domain)
    if trouble := screen_trouble(domain.XMLDesc(0)):
        raise Conflict("instances", domain.name(), trouble)
    return socket(fileno=domain.openGraphicsFD(0, libvirt.VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH))


def screenshot(connection: Any, uuid: str) -> bytes:
    domain = connection.lookupByUUIDString(uuid)
    if not domain.isActive():
        raise _off(domain)
    stream, shown = connection.newStream(), bytearray()
    kind = domain.screenshot(stream, 0)
    try:
        if kind != "image/png":
            raise HypervisorError(f"libvirt gives screenshots as {kind}, not as PNG; QEMU 7.1 or later is needed")
        while piece := stream.recv(65536):
            shown += piece
            if len(shown) > SCREENSHOT_MAX:
                raise HypervisorError(f"the screenshot of {domain.name()} has more than {SCREENSHOT_MAX} bytes")
        stream.finish()
    except BaseException:
        stream.abort()
        raise
    return bytes(shown)


@contextlib.contextmanager
def _unless_off(connection: Any, uuid: str) -> Any:
    """What is off, or not there at all, needs no ending; nor does what ends by itself in this very moment."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in ALREADY_OFF and not _ends(connection, uuid):
            raise


ALREADY_OFF = {libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN}
ENDING_LOOKS = 20


def _ends(connection: Any, uuid: str) -> bool:
    """Whether the machine is gone within two seconds: QEMU's monitor closes a moment before libvirt takes notice."""
    for _ in range(ENDING_LOOKS):
        domain = looks.find(connection, uuid)
        if domain is None or not domain.isActive():
            return True
        time.sleep(0.1)
    return False
