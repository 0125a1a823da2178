"""A real Chromium without a window: addresses and scripts enter, values and pictures leave.

It is driven through its DevTools protocol over a pipe, so that no port is opened and no client needed.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ENOUGH_S = 60.0
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def browser_path() -> str | None:
    """Where a Chromium is; None where there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Tab:
    """One page of the browser.

    Attributes:
        problems: what the page wrote to its console as an error, and scripts that were refused.
    """

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._numbers = itertools.count(1)
        self._held = b""
        self._session: str | None = None
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol.

        Raises:
            RuntimeError: the browser refused it, or does not answer in time.
        """
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + ENOUGH_S
        while (answer := self._message(until)).get("id") != number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def size(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Set the window's size in CSS pixels, and the colours that its user likes."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def open(self, address: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=address)

    def value(self, script: str) -> Any:
        """What an expression gives in the page; a promise is waited for.

        Raises:
            RuntimeError: it raises.
        """
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, script: str, most_s: float = ENOUGH_S) -> None:
        """Until an expression is true.

        Raises:
            TimeoutError: it is not, after all this time.
        """
        until = time.monotonic() + most_s
        while not self.value(script):
            if time.monotonic() > until:
                raise TimeoutError(f"{script} is not true after {most_s:g} s; problems: {self.problems}")
            time.sleep(0.05)

    def picture(self, to: Path, *, whole: bool = True) -> None:
        """Write what is seen as PNG, the whole page or what fits the window."""
        made = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        to.write_bytes(base64.b64decode(made["data"]))

    def _message(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            part = os.read(self._read, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError(
                    f"The browser {'ended' if ready else f'did not answer in {ENOUGH_S:g} s'}."
                )
            self._held += part
        line, _, self._held = self._held.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(parameters["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.problems.append(parameters["entry"]["text"] + " " + parameters["entry"].get("url", ""))


@contextmanager
def browsing() -> Iterator[Tab]:
    """A tab of a new browser, which ends with it.

    Raises:
        FileNotFoundError: there is no Chromium here.
    """
    program = browser_path()
    if program is None:
        raise FileNotFoundError(f"No {', '.join(_NAMES)} is here. Install the package chromium.")
    into, out = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="freshet-browser-", ignore_cleanup_errors=True) as profile:
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio",
            "--remote-debugging-pipe",
        ]  # fmt: skip
        # Chromium reads commands from descriptor 3 and writes answers to 4.
        theirs = fcntl.fcntl(into[0], fcntl.F_DUPFD, 10), fcntl.fcntl(out[1], fcntl.F_DUPFD, 10)
        script = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
            "os.execv(sys.argv[3], sys.argv[3:])"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, theirs), program, *flags, f"--user-data-dir={profile}"],
            pass_fds=theirs,
            env={**os.environ, "HOME": profile, "XDG_CONFIG_HOME": profile},  # it writes there, too
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for descriptor in (into[0], out[1], *theirs):
            os.close(descriptor)
        try:
            yield Tab(out[0], into[1])
        finally:
            os.close(into[1])  # the browser ends with its pipe
            os.close(out[0])
            try:
                process.wait(ENOUGH_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
