"""A real browser, Chromium or Firefox, with one page that a test drives and looks at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from tests.e2e.server_process import ROOT

BROWSERS: tuple[Literal["chromium", "firefox"], ...] = ("chromium", "firefox")
SHOTS = ROOT / "build" / "screenshots"
END_SECONDS = 20


class Browser:
    """The page. Each call raises AssertionError with what the browser says when it cannot be done in 90 s."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self._process = process
        assert self._answer() == "ready"

    def goto(self, url: str) -> None:
        """Load an address."""
        self._do("goto", url)

    def type(self, selector: str, text: str) -> None:
        """Type into the first such element."""
        self._do("type", selector, text)

    def click(self, selector: str) -> None:
        """Click on the first such element."""
        self._do("click", selector)

    def press(self, key: str) -> None:
        """Press a key, wherever the focus is."""
        self._do("press", key)

    def evaluate(self, code: str) -> Any:
        """The value of an expression in the page."""
        return self._do("evaluate", code)

    def wait(self, code: str) -> None:
        """Until an expression is true; what the page shows and complains of is told if it never is."""
        try:
            self._do("wait", code)
        except AssertionError as error:
            shown = self.evaluate("document.body.innerText")[:2000]
            raise AssertionError(f"{error}\n{shown}\n{self.problems()}") from error

    def wait_text(self, text: str) -> None:
        """Until the page shows a text."""
        self.wait(f"document.body.innerText.includes({json.dumps(text)})")

    def shot(self, name: str) -> Path:
        """A screenshot among the build's output."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        file = SHOTS / f"{self.name}-{name}.png"
        self._do("screenshot", str(file))
        return file

    def dark(self, *, on: bool) -> None:
        """The dark theme, as the system would ask for it; only in Chromium."""
        self._do("dark", on)

    def problems(self) -> list[str]:
        """What the page has complained of since this was asked: errors of its console, breaches of its policy."""
        found: list[str] = self._do("problems")
        return found + [f"CSP: {one}" for one in self.evaluate("window.__violations.splice(0)")]

    def _do(self, verb: str, *given: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([verb, *given]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{self.name} has ended"
        doc = json.loads(line)
        assert "error" not in doc, doc["error"]
        return doc["value"]


@contextmanager
def browser(name: str) -> Iterator[Browser]:
    """A browser with an empty profile; it and all its processes are gone afterwards."""
    command = [str(ROOT / "scripts/web"), "tests/drive.mjs", name]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    try:
        yield Browser(name, process)
    finally:
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
