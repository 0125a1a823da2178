"""The A/B demonstration is started; pictures of its live page leave: light, dark, and on a phone.

python -m benchmarks.screenshots [--to docs/images] [--seconds 40] [--address http://127.0.0.1:8000]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from benchmarks.browser import Tab, browsing
from consumers.machine_metrics import announced_addresses
from streaming.errors import FreshetError

ROOT = Path(__file__).resolve().parent.parent
WIDE, TALL, PHONE = 1280, 1000, (390, 844)
_STARTED_S = 180.0


@contextmanager
def demonstration(home: Path) -> Iterator[str]:
    """A demonstration of its own, and its server's address."""
    script = "from consumers.cli import main; raise SystemExit(main())"
    words = [
        "--home",
        str(home),
        "--set",
        "serve.port=0",
        "demo",
        "--ab",
        "--challenger",
        "better",
        "--rate",
        "1500",
    ]
    with subprocess.Popen(
        [sys.executable, "-c", script, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    ) as process:
        try:
            until = time.monotonic() + _STARTED_S
            while not (found := [at for name, at in announced_addresses(home).items() if "serve" in name]):
                if process.poll() is not None or time.monotonic() > until:
                    raise FreshetError("The demonstration ended, or has not started in time.")
                time.sleep(0.2)
            yield f"http://{found[0]}"
        finally:
            process.send_signal(signal.SIGINT)


def shown(tab: Tab, address: str) -> None:
    """The page with everything on it: a user asked for, an item chosen."""
    tab.open(address)
    tab.wait("document.querySelectorAll('#curve .line').length > 1 && state.map !== null", _STARTED_S)
    tab.wait("document.querySelector('#experiment-chart .band') !== null", _STARTED_S)
    tab.value("$('user').value = 'user-000012'; $('ask').requestSubmit()")
    tab.value("choose(state.map.items[20][0])")
    tab.wait("document.querySelector('#answer li') && document.querySelector('#near li') && true")


def take(address: str, to: Path) -> None:
    """Three pictures."""
    to.mkdir(parents=True, exist_ok=True)
    with browsing() as tab:
        for name, (width, height), dark in (
            ("page-light", (WIDE, TALL), False),
            ("page-dark", (WIDE, TALL), True),
            ("page-phone", PHONE, False),
        ):
            tab.size(width, height, dark=dark, phone=width < WIDE)
            shown(tab, address)
            time.sleep(12.0)  # for lines to draw in
            tab.picture(to / f"{name}.png", whole=width == WIDE)
            print(to / f"{name}.png")


def main() -> int:
    """Take the pictures."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--to", type=Path, default=ROOT / "docs" / "images")
    options.add_argument("--seconds", type=float, default=40.0, help="learn so long before")
    options.add_argument("--address", help="of a server that runs already")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="freshet-pictures-", ignore_cleanup_errors=True) as home:
        running = nullcontext(chosen.address) if chosen.address else demonstration(Path(home))
        with running as address:
            if not chosen.address:
                time.sleep(chosen.seconds)
            take(address, chosen.to)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
