"""A set of hosts that instances are placed on by load."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nanovirt.resources.conditions import Condition
from nanovirt.resources.fields import Name, Text, Title
from nanovirt.resources.host import Amounts
from nanovirt.resources.kind import CLUSTER, LATER, Column, Later, Refers, Resource, Spec, Status
from nanovirt.resources.metadata import Model
from nanovirt.resources.qos import Qos


class Overcommit(Model):
    """How much more is handed out than is there, as a whole factor."""

    cpu: Annotated[int, Field(ge=1, le=64)] = 4
    memory: Annotated[int, Field(ge=1, le=8)] = 1
    disk: Annotated[int, Field(ge=1, le=64)] = 2


class ComputePoolSpec(Spec):
    """What an administrator decides about a pool."""

    display_name: Title = ""
    description: Text = ""
    enabled: bool = True
    storage_pool: Name = "local"
    address_pool: Name | None = None
    strategy: Literal["Spread", "Pack"] = "Spread"
    overcommit: Overcommit = Overcommit()
    cpu_model: Annotated[str, LATER] = "Baseline"
    failover: Annotated[Literal["Never", "Manual", "Automatic"], Later("Automatic")] = "Manual"
    drift: Literal["Report", "Revert"] = "Report"
    qos: Qos | None = None


class ComputePoolStatus(Status):
    """Totals over the pool's hosts."""

    observed_generation: int = 0
    hosts: int = 0
    ready_hosts: int = 0
    instances: int = 0
    capacity: Amounts = Amounts()
    allocated: Amounts = Amounts()
    conditions: tuple[Condition, ...] = ()


class ComputePool(
    Resource[ComputePoolSpec, ComputePoolStatus],
    plural="computepools",
    short="cpool",
    scope=CLUSTER,
    columns=(
        Column("Hosts", ".status.hosts", "integer"),
        Column("Ready", ".status.readyHosts", "integer"),
        Column("Instances", ".status.instances", "integer"),
        Column("Cpus", ".status.capacity.cpus", "integer"),
        Column("Allocated", ".status.allocated.cpus", "integer"),
        Column("Storage", ".spec.storagePool"),
        Column("Addresses", ".spec.addressPool"),
    ),
    refers=(Refers("spec.storagePool", "storagepools"), Refers("spec.addressPool", "addresspools")),
):
    """Binds one storage pool and one address pool."""

    spec: ComputePoolSpec = Field(default_factory=ComputePoolSpec)
    status: ComputePoolStatus = Field(default_factory=ComputePoolStatus)
