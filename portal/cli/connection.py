"""The command line's way to the server: which kubeconfig counts, one connection, requests and streams of lines.

Synchronous and without aiohttp or pydantic on purpose: a command has to answer before a person notices a wait, and
importing those two takes longer than everything else together. What is not I/O is shared, in `resources.wire`.
"""

from __future__ import annotations

import http.client
import os
import re
import ssl
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import orjson

from nanovirt.resources import access, kubeconfig, wire
from nanovirt.resources.access import BadCredentials, Credentials
from nanovirt.resources.errors import Conflict, Expired, StoreFailed, StoreUnreachable, Unavailable
from nanovirt.resources.wire import Event

JSON = dict[str, Any]
CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 60.0
SILENCE_SECONDS = 45.0
"""A watch that is silent for longer is dead: the server sends a bookmark every 30 s."""
TRANSACTIONS = "/apis/nano/v1/transactions"
PAUSES = (0.2, 1.0, 3.0)
"""Seconds before a write whose answer was lost is sent again, or asked after again while it is carried out."""
AS_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def data_folder() -> Path:
    """Where the state of a server lies when nobody says otherwise."""
    return Path("/var/lib/nano") if os.geteuid() == 0 else own_folder()


def own_folder() -> Path:
    """Where it lies for everybody but root, and for simulations."""
    return Path.home() / ".local" / "share" / "nano"


def locate(given: str | None) -> Path:
    """The kubeconfig to use: --kubeconfig, $NANO_KUBECONFIG, the data folder's; BadCredentials tells where it looked.

    Run as the plugin `kubectl nano`, the kubeconfig of kubectl itself stands before the data folder's.
    """
    if given:
        return Path(given)
    if named := os.environ.get("NANO_KUBECONFIG"):
        return Path(named)
    places = list(dict.fromkeys(folder / "admin.kubeconfig" for folder in (data_folder(), own_folder())))
    if Path(sys.argv[0]).name == "kubectl-nano":
        places.insert(0, Path(os.environ.get("KUBECONFIG", "").split(":")[0] or Path.home() / ".kube" / "config"))
    for place in places:
        if _readable(place):
            return place
    files = ", ".join(f"{one} (not there)" for one in places)
    raise BadCredentials(
        f"no kubeconfig found; looked at --kubeconfig (not given), $NANO_KUBECONFIG (not set), {files}.\n"
        "Start a server here with `nanoctl up`, or copy DIR/admin.kubeconfig from the server's machine and name it "
        "with --kubeconfig"
    )


def _readable(place: Path) -> bool:
    try:
        return place.is_file()
    except PermissionError:
        return False


class Connection:
    """One connection to the server, made at the first request; a watch gets one of its own."""

    def __init__(self, credentials: Credentials, warn: Callable[[str], None]) -> None:
        """`warn` is told what the server says beside its reply; it may be exchanged at any time."""
        self.credentials = credentials
        self.warn = warn
        self._tls = access.tls(credentials)
        self._kept: http.client.HTTPConnection | None = None
        self._gone_out = False
        """Whether the latest request may have reached the server."""

    def close(self) -> None:
        """Give the connection back."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def get(self, path: str, accept: str = "") -> JSON:
        """The JSON behind a path."""
        return self.ask("GET", path, accept=accept)

    def ask(
        self, method: str, path: str, doc: Any = None, *, content_type: str = "", accept: str = "", key: str = ""
    ) -> JSON:
        """One request and its JSON reply; with an idempotency `key` it may be sent again (`write` does).

        Raises what the server refuses with, or StoreUnreachable.
        """
        body = None if doc is None else orjson.dumps(doc)
        named = {"Content-Type": content_type or "application/json"} if body is not None else {}
        if accept:
            named["Accept"] = accept
        if key:
            named["Idempotency-Key"] = key
        _, content = self.raw(method, path, body, named)
        return _read(content)

    def write(self, method: str, path: str, doc: Any = None, *, content_type: str = "", ask: str = "") -> JSON:
        """One write, which takes effect once: with a key of its own it is sent again when its answer is lost.

        Raises what the server refuses with, or StoreUnreachable. That and StoreFailed say how to `ask` for an outcome
        that is not known.
        """
        key, began = str(uuid.uuid4()), time.monotonic()
        lost: StoreUnreachable | Conflict | None = None
        for pause in (0.0, *PAUSES):
            if time.monotonic() - began > REQUEST_SECONDS:
                break
            time.sleep(pause)
            try:
                return self.ask(method, path, doc, content_type=content_type, key=key)
            except StoreUnreachable as error:
                if lost is None and not self._gone_out:
                    raise
                lost = error
            except StoreFailed as error:
                raise StoreFailed(f"{error}; {ask or _ask(path, key)}") from error
            except Conflict as error:
                if not any(one.reason == "RequestInFlight" for one in error.causes):
                    raise
                lost = error
        raise StoreUnreachable(f"{lost}; {ask or _ask(path, key)}") from lost

    def raw(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[Message, bytes]:
        """One request; headers and body of a reply that is a success. A GET is repeated on a stale connection."""
        sent_before = self._kept is not None
        with self._faults():
            try:
                return self._once(method, path, body, headers or {})
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                self.close()
                if method != "GET" or not sent_before:
                    raise
                return self._once(method, path, body, headers or {})

    def _once(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[Message, bytes]:
        self._gone_out = False
        if self._kept is None:
            self._kept = self._connect(REQUEST_SECONDS)
        self._gone_out = True
        try:
            self._kept.request(method, path, body=body, headers=access.headers(self.credentials) | dict(headers))
            reply = self._kept.getresponse()
            content = reply.read()
        except (http.client.HTTPException, OSError):
            self.close()
            raise
        if not 200 <= reply.status < 300:
            raise wire.refusal(reply.status, content, f"{method} {path.partition('?')[0]}")
        for warning in reply.headers.get_all("Warning") or ():
            self.warn(_unquoted(warning))
        return reply.headers, content

    def send(self, path: str, piece: IO[bytes] | bytes, headers: Mapping[str, str]) -> JSON:
        """PUT bytes and return the JSON reply."""
        body = piece if isinstance(piece, bytes) else piece.read()
        _, content = self.raw("PUT", path, body, {"Content-Type": "application/octet-stream", **headers})
        return _read(content) if content.strip() else {}

    def lines(self, path: str, accept: str, deadline: float | None) -> Iterator[bytes]:
        """The lines of a stream until the server ends it or the deadline (monotonic seconds) comes."""
        cut = wire.Lines()
        with self._faults():
            connection = self._connect(SILENCE_SECONDS)
            try:
                connection.request("GET", path, headers=access.headers(self.credentials) | {"Accept": accept})
                reply = connection.getresponse()
                if not 200 <= reply.status < 300:
                    raise wire.refusal(reply.status, reply.read(), f"GET {path.partition('?')[0]}")
                while True:
                    if deadline is not None and connection.sock is not None:
                        connection.sock.settimeout(max(0.01, min(SILENCE_SECONDS, deadline - time.monotonic())))
                    piece = reply.read1(65536)
                    if not piece:
                        return
                    yield from cut.feed(piece)
            finally:
                connection.close()

    def pieces(self, path: str) -> Iterator[bytes]:
        """The bytes of a long reply as they come; StoreUnreachable when it breaks off."""
        with self._faults():
            connection = self._connect(SILENCE_SECONDS)
            try:
                connection.request("GET", path, headers=access.headers(self.credentials))
                reply = connection.getresponse()
                if not 200 <= reply.status < 300:
                    raise wire.refusal(reply.status, reply.read(), f"GET {path.partition('?')[0]}")
                while piece := reply.read(1 << 20):
                    yield piece
            finally:
                connection.close()

    def watch(
        self,
        path: str,
        parameters: Mapping[str, str],
        revision: str,
        *,
        accept: str = "",
        deadline: float | None = None,
    ) -> Iterator[Event]:
        """Changes after a revision until the deadline, through broken connections; Expired asks to list again."""
        cursor, failures = wire.Cursor(revision), 0
        while deadline is None or time.monotonic() < deadline:
            url = path + wire.query(
                watch=True, allowWatchBookmarks=True, resourceVersion=cursor.resource_version, **parameters
            )
            try:
                for line in self.lines(url, accept or "application/json", deadline):
                    failures = 0
                    if event := cursor.take(line):
                        yield event
            except Expired:
                raise
            except Unavailable:
                failures += 1
                pause = wire.backoff(failures)
                time.sleep(pause if deadline is None else max(0.0, min(pause, deadline - time.monotonic())))

    def _connect(self, seconds: float) -> http.client.HTTPConnection:
        url = urlsplit(self.credentials.server)
        host, port = url.hostname or "", url.port
        made = (
            http.client.HTTPConnection(host, port or 80, timeout=CONNECT_SECONDS)
            if self._tls is None
            else http.client.HTTPSConnection(host, port or 443, timeout=CONNECT_SECONDS, context=self._tls)
        )
        made.connect()
        made.sock.settimeout(seconds)
        return made

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """The one place where faults of the connection become StoreUnreachable, with what to do about them."""
        server = self.credentials.server
        try:
            yield
        except ConnectionRefusedError as error:
            raise StoreUnreachable(
                f"nothing listens at {server}; is the server running? (`nanoctl up`, or `nanoctl server`)"
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise StoreUnreachable(
                f"{server} shows a certificate that the kubeconfig does not trust ({error.verify_message}); "
                "fetch its admin.kubeconfig anew"
            ) from error
        except TimeoutError as error:
            raise StoreUnreachable(f"{server} did not answer in time") from error
        except (http.client.HTTPException, OSError) as error:
            raise StoreUnreachable(f"{server} cannot be reached: {error or type(error).__name__}") from error


def _ask(path: str, key: str) -> str:
    """How to find out what became of a write."""
    if "dryRun=" in path:
        return "it was a dry run, nothing was stored"
    where = f"{TRANSACTIONS}/{key}"
    return f"whether it was stored is not known: once the server answers, `kubectl get --raw {where}` says so"


def _unquoted(warning: str) -> str:
    """The text in `299 - "text"` (RFC 7234 section 5.5)."""
    return re.sub(r"\\(.)", r"\1", warning.partition('"')[2].rstrip().removesuffix('"'))


def _read(content: bytes) -> JSON:
    try:
        found = orjson.loads(content)
    except ValueError as error:
        raise StoreUnreachable(f"the server answered with something that is no JSON: {content[:80]!r}") from error
    return found if isinstance(found, dict) else {"value": found}


def connect(kubeconfig_path: str | None, context: str | None) -> Connection:
    """A connection with what the kubeconfig says. Raises BadCredentials; the server is not asked yet."""
    return Connection(kubeconfig.from_kubeconfig(locate(kubeconfig_path), context), _say)


def _say(warning: str) -> None:
    sys.stderr.write(f"Warning: {warning}\n")
