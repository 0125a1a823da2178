"""`make bench`: every benchmark, one after the other, each in a process of its own; one table at the end.

python -m benchmarks [--only NAME …] [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.record import RESULTS
from benchmarks.verdict import Verdict, show

NAMES = (
    "quality",
    "kernels",
    "path",
    "batch_size",
    "commits",
    "fork",
    "memory",
    "simulator",
    "drift",
    "live",
    "serving",
    "index",
    "experiments",
    "joining",
    "sasrec",
    "sessions",
    "kafka",
    "freshness",
    "restart",
)
_ROOT = Path(__file__).resolve().parent.parent


def run(name: str, quick: bool) -> int:
    """Run one benchmark; returns its exit code."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else [])]
    return subprocess.run(command, check=False, cwd=_ROOT).returncode


def recorded(name: str, results: Path = RESULTS) -> list[Verdict]:
    """The verdicts of the newest full run of a benchmark."""
    figures = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))["figures"]
    fields = ("what", "figure", "target", "at_most", "note")
    return [Verdict(**{k: one[k] for k in fields}) for one in figures["verdicts"]]


def main() -> int:
    """Run all, or those that are named."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES)
    )
    options.add_argument("--quick", action="store_true", help="small counts, nothing is written")
    given = options.parse_args()
    codes = {}
    for name in given.only:
        print(f"\n== {name}", flush=True)
        codes[name] = run(name, given.quick)
    if not given.quick:
        print()
        # A benchmark that broke off has no verdicts of this run.
        ended = [
            name for name, code in codes.items() if code in (0, 1) and (RESULTS / f"{name}.json").exists()
        ]
        targets = [v for name in ended for v in recorded(name) if v.target is not None]
        show("What must be reached", targets)
    print("".join(f"{name} ended with exit code {code}\n" for name, code in codes.items() if code), end="")
    return max(codes.values(), key=abs)


if __name__ == "__main__":
    raise SystemExit(main())
