"""The closed list of reasons: one CamelCase word each, an English sentence, and the parameters that it names in braces."""

from __future__ import annotations

from enum import Enum, unique
from typing import Any


class _Params(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


@unique
class Reason(Enum):
    """`name` is the word that stands in conditions, Events and Status causes; `value` is the sentence."""

    # of fields
    FieldValueRequired = "The field is required."
    FieldUnknown = "There is no such field; known here: {known}."
    FieldImmutable = "The field cannot be changed after creation; make a new object instead."
    FieldDuplicate = "{value} stands twice in the list; each item needs its own."
    NotYetSupported = "{what} is not built yet, though the design has it: nothing would act on it; leave it out."
    OneMemberRequired = "Exactly one of {members} must be given."
    NotInSubnet = "{ip} lies outside the subnet {subnet}."
    RangeReversed = "The range begins at {first} after its end {last}."
    RangesOverlap = "The ranges {one} and {other} share addresses."
    SubnetOverlaps = "The subnet {subnet} overlaps {other} of pool {pool} on network {network}, for {vlan}."
    SubnetOverlapsStray = (
        "The subnet {subnet} overlaps {other} of pool {pool}, and instance {instance} has a card with an address of pool "
        "{stray} outside of that pool's VLAN; bring it back first: its card without vlan, and on a host that carries it."
    )
    VlanOfPoolOnly = "Pool {pool} has addresses that pool {other} has in another VLAN, so its cards are in its own, {vlan}; leave vlan out."
    RangeHoldsAddressInUse = "{ip} is held by {instance}; the ranges must go on holding it."
    NotInRanges = "{ip} is in none of the ranges of pool {pool}."
    AddressReserved = "{ip} is reserved in pool {pool}."
    AddressInUse = "{ip} is held by {instance}."
    MacInUse = "{mac} is held by {instance}."
    NeedsAddressPool = "An ip can be chosen only together with an addressPool."
    SystemWritten = "{kind} objects are written by the system; change the {owner} instead."
    ReferenceMissing = "{kind} {name} does not exist."
    InUse = "{name} is still used by {users}."
    NotEmpty = "Namespace {name} still holds {count} objects; delete them first."
    OwnsObjects = "User {name} still owns {count} objects; delete them, or give them away with `nanoctl chown`."
    UserDisabled = "User {name} is disabled."
    TooManyTokens = "User {name} has {limit} tokens already; take some of them back first."
    NameReserved = "The name {name} belongs to the system; choose another one."
    NotGrantable = "No role can grant {verbs} on {kind}: only the administrator and the system may do that."
    SecretTooLong = "It has {size} bytes; the limit is {limit}."
    SecretMoved = "Values of a Secret cannot be copied or moved by a patch; write them again."
    DeletionProtected = "deletionProtection is on; set it to false first."
    FieldManagerConflict = 'conflict with "{manager}"{since}'
    WrittenTwice = "{name} is in the transaction twice; {other} names it already."
    RequestDiffers = "The key {key} stands for another request; choose a new key for a new request."
    RequestForgotten = (
        "The request with the key {key} was carried out at revision {revision}, and the log does not reach back to what "
        "it answered; read the objects as they are now."
    )
    RequestInFlight = "The request with the key {key} is being carried out; ask again."
    UnknownFieldSelector = "Field {path} cannot be selected; selectable: {known}."
    # of instances
    AsDesired = "The machine is as desired."
    Scheduled = "Placed on {host}."
    NoHostFits = "No host of pool {pool} fits: {hosts}."
    PoolNotFound = "ComputePool {pool} does not exist."
    DomainNotReported = "Host {host} does not report the domain {uuid} as one that nobody claims."
    PoolDisabled = "ComputePool {pool} is disabled."
    PoolHasNoHosts = "ComputePool {pool} has no hosts."
    StoragePoolNotFound = "StoragePool {pool} does not exist."
    AddressPoolNotFound = "AddressPool {pool} does not exist."
    SecurityGroupNotFound = "SecurityGroup {group} does not exist."
    AddressPoolFull = "AddressPool {pool} has no free address among {total}."
    ImageNotFound = "Image {image} does not exist."
    ImageNotReady = "Image {image} is not ready: {why}"
    DiskSmallerThanImage = "Disk {disk} is asked with {asked}, but image {image} has {has}."
    GuestAgentAnswers = "The guest agent answers."
    GuestAgentSilent = "The guest agent does not answer; after a start it takes a while."
    SecretNotFound = "Secret {secret} does not exist."
    SystemTemplateNotFound = "SystemTemplate {template} does not exist."
    ImageOfOtherType = "Image {image} is of type {has}; what is needed here is one of type {asked}."
    VolumeNotFound = "Volume {volume} does not exist."
    VolumeTaken = "Volume {volume} belongs to {instance} still; it is free once its host has let it go."
    VolumeRemoving = "Host {host} is asked to remove its file."
    VolumeHostSilent = "Its file is removed when host {host} is Ready again."
    VolumeNotRemoved = "Host {host} has not removed its file and tries again: {detail}"
    VolumeFileLeft = "The file {file} stays on {host}: {detail}."
    VolumesApart = "The volumes {volumes} are on different hosts, so no host has them all."
    VolumeElsewhere = "Volume {volume} is on host {has}, and the machine on {host}."
    HostHasNoRoom = "Host {host} has no room for that: {why}; all else is as wished."
    HostLacksNetwork = "Host {host} has no bridge for network {network}; all else is as wished."
    HostLacksVlan = "The bridge of host {host} for network {network} does not carry {vlan}; all else is as wished."
    VlanWithdrawn = "Card {nic} stays in {vlan} of network {network}, although the bridge of host {host} is not to carry that any more."
    ShrinkNeedsStop = "Disk {disk} can get smaller only while the machine is stopped; all else is as wished."
    OperationFailed = "Host {host} could not carry out {verb} of {what}: {detail}"
    DataLossNotAccepted = (
        "Data of disk {disk} would be lost; accept that for this one change with the annotation "
        "nano/accept-data-loss: {accept}"
    )
    ChangeRefused = "It cannot be changed to that: {detail}."
    VolumesReady = "Every disk is there."
    ChangedBehind = "Its definition on {host} was changed behind Nano, policy {policy}: {changes}."
    AdoptedAsItIs = "It was adopted as it is on {host}; a definition by Nano would not have: {changes}."
    AsDefined = "Its definition is as Nano made it."
    RestartNeeded = "Changes that wait for the next start: {count}."
    NothingAwaits = "The running machine has every change."
    Started = "The machine runs on {host}."
    HostBack = "Host {host} reports again."
    Provisioning = "The host is making the disks and the definition."
    Starting = "The machine is starting."
    StartsAfterOthers = "Its host was booted anew, and machines there with a higher startPriority start first: {count}, among them {names}."
    Stopping = "The machine is stopping."
    StoppedAsDesired = "The machine is stopped as desired."
    Suspending = "The machine is being suspended."
    Resuming = "The machine is being resumed."
    SuspendedAsDesired = "The machine is suspended as desired: it stands still and keeps its memory."
    NothingToSuspend = "The machine is off, so there is nothing to suspend; it stays off until `nanoctl start`."
    SuspendedMemoryLost = (
        "The machine ended while it was suspended ({detail}); what its guest had in memory is lost. It stays off until "
        "`nanoctl start`."
    )
    GuestShutdown = "The guest shut itself down; `nanoctl start` starts it again."
    Crashed = "The machine crashed ({detail}); restartPolicy {policy} leaves it stopped."
    RestartBudgetSpent = (
        "The machine ended {count} times within {minutes} minutes; it is left stopped until somebody starts it."
    )
    HostUnreachable = (
        "Host {host} has not reported since its lease ended; what runs there is unknown and nothing is freed."
    )
    MachinePaused = "The machine was paused on {host} behind Nano ({detail}); it goes on by itself after {seconds} s."
    HypervisorRefused = "The hypervisor of {host} refused: {detail}"
    ImageFetchFailed = "Host {host} could not fetch image {image}: {detail}"
    BridgeMissing = "Host {host} has no bridge {device}."
    DiskFull = "Host {host} has no room left in {path}."
    InternalError = "Nano met a bug: {detail}"
    Deleting = "The machine is being deleted."
    # of instance sets
    MembersTooLarge = "The members would have {size} bytes together, and the limit is {limit}; make the template smaller, or take fewer."
    NotInTemplate = "Several machines cannot share one {what}; leave it out of the template."
    MembersReady = "All {replicas} members are ready."
    MembersMissing = "{present} of {replicas} members are there."
    MembersLeaving = "Members that are going away: {count}."
    MembersNotReady = "{ready} of {replicas} members are ready."
    MemberProtected = "deletionProtection of its member {name} is on; set it to false there first."
    MembersProtected = "Members too many that are kept by their deletionProtection: {count}."
    NamesFree = "No other instance has a name of the rule."
    NamesTaken = "Instances that are no members have names of the rule, so these are left out: {names}."
    TemplateCurrent = "Every member was made from the template as it is."
    TemplateOlder = "Members that were made from an older template and stay as they are: {count}."
    # of one host, while scheduling
    HostDisabled = "disabled"
    HostNotReady = "not ready"
    HostPinned = "the instance is pinned to {host}"
    InsufficientCpus = "{free} of the asked {asked} cpus are free"
    InsufficientMemory = "{free} of the asked {asked} memory is free"
    InsufficientDisk = "{free} of the asked {asked} disk is free"
    NetworkMissing = "no bridge for network {network}"
    VlanMissing = "its bridge for network {network} does not carry {vlan}"
    HostStorageNotReady = "a storage path cannot be used"
    WrongArchitecture = "runs {has}, not {asked}"
    # of hosts
    Reporting = "The host reports."
    NeverReported = "The host has not reported since the server started."
    LeaseExpired = "The host has not reported for {seconds} s."
    Joined = "The host has presented its certificate."
    HypervisorDown = "The host reports, but cannot run machines now: {detail}"
    StorageReady = "Every storage path can be written."
    StoragePathUnusable = "{path}: {detail}"
    Accounted = "The host has said what it holds since the store was restored."
    NotAccounted = (
        "The store was restored from a backup and the host has not said yet what it holds; until then nothing is started, "
        "revoked or freed anywhere."
    )
    HoldsElsewhere = "The host has machines that the restored store has on other hosts: {instances}"
    # of pools
    PoolReady = "The pool is usable."
    NoReadyHosts = "None of the pool's {hosts} hosts is ready."
    StorageNearlyFull = "{free} percent free, below the warning mark of {mark}."
    AddressesFree = "{free} of {total} addresses are free."
    AddressesExhausted = "All {total} addresses are in use."
    # of images
    ImageReady = "The image is checked and can be used."
    WaitingForUpload = "Waiting for the upload to begin."
    Uploading = "{received} of {total} bytes have arrived."
    WaitingForFile = "Waiting for {file} in the server's image folder."
    Inspecting = "The file is being checked and hashed."
    ImageRejected = "The file was refused: {detail}"

    # of what a release ships as objects
    ShippedOtherwise = "This release ships {name} with other {fields}; it was edited here, so it stays as it is. `nanoctl defaults` tells more."

    # of the directory of desired objects
    DirectoryApplied = "Everything in {path} counts as applied."
    DirectoryIncomplete = "Of {path}, {count} files wait or are refused."
    DirectoryMissing = "{path} is not there; nothing is changed or deleted because of that."
    DirectoryUnsafe = "{path}: {detail}; nothing in it counts."
    DirectoryBusy = "Git is changing {path} (.git/index.lock); nothing counts before it is done."
    DirectoryHeld = "The store was restored and is held; nothing of {path} counts before that is over."
    SetRefused = "None of {count} changes was carried out: {detail}"
    FileApplied = "Its {count} objects are as it says."
    FileSettling = "It has just changed; it counts when two looks have found it the same."
    FileUnsafe = "It is not read: {detail}."
    FileBroken = "It cannot be used, and nothing of it changes: {detail}"
    FileNamesClash = "Its name and {other} are the same to other file systems; give one of them another name."
    ObjectDefinedTwice = "{name} stands in {files}; neither counts."
    ObjectOfBrokenFile = "{name} may still stand in {file}, which cannot be read."
    FileWaits = "It waits, since the set that it is part of is refused."
    FileRefused = "It is refused, and so is the whole set: {detail}"
    ApiSideWins = "The file and the API side have both changed {fields} of {name}; the API side's stands."
    ApiSideAhead = "The API side has changed {fields} of {name} since the file was applied; that stands."
    DeletedByApi = "{name} was deleted by the API side and is not made anew; take it out of the file, and put it in again later to have it."
    OperationNotDesired = "{kind} objects happen once; send them by `nanoctl apply`, which does not repeat them."
    SecretNotDesired = "A file that is kept is no place for a secret; send it by `nanoctl apply`."
    NothingVanished = "No object has lost its file."
    PruneOff = (
        "{count} objects have no file any more. They stay, since prune is off; `nanoctl desired prune` deletes them."
    )
    PruneWaits = "{count} objects have no file any more. None is deleted while a file waits or cannot be read."
    PruneHeld = "{count} of {total} objects have no file any more. At most {limit} go at once; `nanoctl desired prune --force` deletes them."
    PruneContested = "{count} objects have no file any more and stay, since the API side has changed them; `nanoctl desired prune --force` deletes them."
    PruneRefused = "{count} objects have no file any more, and cannot be deleted: {detail}"

    def say(self, /, **params: Any) -> str:
        """The English sentence with `params` filled in; a missing one shows as `?`."""
        return self.value.format_map(_Params(params))
