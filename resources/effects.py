"""When a change takes effect, and at what price."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple


class Effect(IntEnum):
    """When a change takes effect, from what nobody notices to what cannot be."""

    Live = 0
    """At once; the guest goes on."""
    NextStart = 1
    """When the machine starts next; it does not run now, or has no host yet."""
    Restart = 2
    """With an end and a new start of the running machine: ordered by the change itself, or later by somebody."""
    DataLoss = 3
    """Data are gone: a disk gets smaller, is made anew or goes; a set deletes the members that are too many."""
    Refused = 4
    """Never: the server refuses it."""


class FieldChange(NamedTuple):
    """One field that differs: its path, the values (None: absent), and when the change takes effect."""

    path: str
    current: Any
    desired: Any
    effect: Effect
    accept: str = ""
    """Of a DataLoss that has to be accepted: the word that accepts it."""
    why: str = ""
    """Of a Refused: the reason, as the end of a sentence."""
