"""A node: a machine's network, mount and UTS namespace, kept by one sleeping process, and running things in it."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.testbed.sweep import end_members

Popen = subprocess.Popen[bytes]
Completed = subprocess.CompletedProcess[str]

# $1 name, $2 folder, $3 ... cgroup controllers' folders. A fresh /sys shows this namespace's network devices, and the
# cgroup mounts are carried over into it (a plain remount would hide them, and CPU quota with them).
HOLD = r"""
name=$1 folder=$2; shift 2
hostname "$name"
mount --rbind /sys/fs/cgroup "$folder/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$folder/cgroup" /sys/fs/cgroup
umount -R -l "$folder/cgroup"
for controller in "$@"; do
    mount --bind "$controller" "${controller%/nano-bed-*}"
done
(cd "$folder/own" && find . -name .mount -printf '%P\n') | while read -r mark; do
    place=${mark%/.mount}
    mkdir -p "/$place"
    mount --bind "$folder/own/$place" "/$place"
done
mount --bind "$folder/../hosts" /etc/hosts
ip link set lo up
echo ready
exec sleep infinity
"""


@dataclass
class Node:
    """A machine on the fabric. `address` is its own, `dir` its folder, the same path inside and outside.

    `private` are the absolute paths that are this node's own; what they hold lies under `dir / "own"`.
    """

    name: str
    address: str
    dir: Path
    private: tuple[str, ...] = ("/run",)
    controllers: tuple[Path, ...] = ()
    _holder: Popen | None = field(default=None, init=False, repr=False)
    _started: list[Popen] = field(default_factory=list, init=False, repr=False)

    @property
    def place(self) -> str:
        """The node's mark in the mounts of its processes, see `sweep.members`."""
        return f"{self.dir.parent.name}/{self.dir.name}"

    @property
    def pid(self) -> int:
        """The process that holds the namespaces. Raises RuntimeError when the node is off."""
        if self._holder is None:
            raise RuntimeError(f"{self.name} is off")
        return self._holder.pid

    def own(self, path: str) -> Path:
        """Where the node's private `path` (or what lies below it) is seen from outside."""
        return self.dir / "own" / path.lstrip("/")

    def power_on(self) -> None:
        """Makes the namespaces, without network devices but `lo`."""
        for folder in (self.dir / "log", self.dir / "cgroup", *(self.own(path) for path in self.private)):
            folder.mkdir(parents=True, exist_ok=True)
        for path in self.private:
            (self.own(path) / ".mount").touch()
        for controller in self.controllers:
            controller.mkdir(parents=True, exist_ok=True)
        argv = ["unshare", "--net", "--mount", "--uts", "--propagation", "private", "sh", "-euc", HOLD, "sh"]
        words = [self.name, str(self.dir), *map(str, self.controllers)]
        with (self.dir / "log/holder.log").open("ab") as log:
            holder = Popen([*argv, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        assert holder.stdout is not None
        with holder.stdout:
            ready = holder.stdout.readline() == b"ready\n"
        self._holder = holder
        if not ready:
            self.power_off()
            raise RuntimeError(f"{self.name} does not start: {(self.dir / 'log/holder.log').read_text()}")

    def power_off(self) -> None:
        """Kills everything in the node at once; its network devices go with it. Files stay, except those in /run."""
        end_members(self.place)
        for process in (*self._started, *([self._holder] if self._holder else [])):
            process.kill()  # the holder is no member yet if it failed before its first mount
            process.wait()
        self._started.clear()
        self._holder = None

    def inside(self, argv: Sequence[str | Path]) -> list[str]:
        """The argv that runs `argv` in the node's namespaces, by exec: the process is the program itself."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--wdns=/", "--"]
        return [*enter, *map(str, argv)]

    def run(
        self, argv: Sequence[str | Path], *, check: bool = True, timeout: float = 60, stdin: str | None = None
    ) -> Completed:
        """Runs a command to its end. Raises AssertionError with its output unless it succeeds or `check` is off."""
        done = subprocess.run(
            self.inside(argv), input=stdin, text=True, capture_output=True, timeout=timeout, check=False
        )
        said = f"{self.name}: {argv} ended with {done.returncode}: {done.stdout}{done.stderr}"
        assert not check or done.returncode == 0, said
        return done

    def start(self, argv: Sequence[str | Path], *, log: str = "", env: dict[str, str] | None = None) -> Popen:
        """Starts a long-lived process, whose pid is the program's; what it says goes to `dir/log/LOG`."""
        with (self.dir / "log" / (log or f"{Path(argv[0]).name}.log")).open("ab") as file:
            process = Popen(self.inside(argv), stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env)
        self._started.append(process)
        return process
