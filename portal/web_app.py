"""The web app as it was built: a fixed set of files with hashed names, and one page that loads them."""

from __future__ import annotations

import mimetypes
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
ASSETS = Path(__file__).with_name("_assets")
NONCE = "__NONCE__"
ROUTES = ("/", "/login", "/instances")
BELOW = ("/console/",)
"""Paths of the app, and beginnings of such: each is the same page, which looks at the path itself."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; worker-src 'self'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'self'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "clipboard-read=(self), clipboard-write=(self)",
    "Strict-Transport-Security": "max-age=31536000",
}
ABSENT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Nano</title>
<style nonce="__NONCE__">body{font:16px/1.6 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem}
</style>
<h1>Nano</h1>
<p>The server is running. This installation has no web portal: it was built with NANOVIRT_SKIP_PORTAL; install it again
without that. <code>nanoctl</code> and <code>kubectl</code> work with the file <code>admin.kubeconfig</code>.</p>
<p lang="zh">服务器正在运行，但此安装不含网页门户（构建时设置了 NANOVIRT_SKIP_PORTAL），请去掉该设置后重新安装。
可以使用 <code>nanoctl</code> 或 <code>kubectl</code>，配合 <code>admin.kubeconfig</code> 文件。</p>
</html>
"""


class Asset(NamedTuple):
    """A file that never changes under its name."""

    body: bytes
    content_type: str


class WebApp:
    """`around` answers what belongs to the app, and hands on everything else."""

    def __init__(self, folder: Path = ASSETS) -> None:
        """Reads all files once (OSError); without any, the page says so."""
        page = folder / "index.html"
        self._page = page.read_text() if page.is_file() else ABSENT
        self._assets = {f"/assets/{file.name}": _asset(file) for file in sorted((folder / "assets").glob("*"))}

    def around(self, handle: Handler) -> Handler:
        """A handler for all requests."""

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            path = request.rel_url.raw_path
            if request.method not in ("GET", "HEAD") or "Upgrade" in request.headers:
                return await handle(request)
            if path in self._assets:
                return _sent(self._assets[path])
            if path in ROUTES or path.startswith(BELOW):
                return self._index()
            return await handle(request)

        return answer

    def _index(self) -> web.Response:
        """The page, with a nonce of its own for the styles that its libraries insert."""
        nonce = secrets.token_urlsafe(16)
        headers = {**HEADERS, "Content-Security-Policy": POLICY.format(nonce=nonce), "Cache-Control": "no-store"}
        return web.Response(text=self._page.replace(NONCE, nonce), content_type="text/html", headers=headers)


def _asset(file: Path) -> Asset:
    return Asset(file.read_bytes(), mimetypes.guess_type(file.name)[0] or "application/octet-stream")


def _sent(asset: Asset) -> web.Response:
    headers = {**HEADERS, "Content-Type": asset.content_type, "Cache-Control": "public, max-age=31536000, immutable"}
    return web.Response(body=asset.body, headers=headers)
