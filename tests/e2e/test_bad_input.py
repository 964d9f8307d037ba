"""Whatever is wrong with a request is refused by a Status: what, where, what to do; nothing is stored or leaked."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import ClientSession, TCPConnector

from nanovirt.resources import access, kubeconfig
from nanovirt.resources.access import Credentials
from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON, later_fields
from nanovirt.resources.kind import Key
from nanovirt.resources.reasons import Reason
from tests.e2e import bad_input
from tests.e2e.bad_input import CASES, LATER, PLAIN, Case
from tests.e2e.server_process import ServerProcess, running_server
from tests.e2e.waiting import instance_key, quiet, until

pytestmark = pytest.mark.timeout(300)
