"""Failure tests with their full counts: kills at every step, at random moments, a million mutated lines.

`python -m benchmarks.crash` writes `results/crash.json`; it ends with exit code 1 where anything was
lost, learned twice or differed in a byte.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.record import record
from consumers.broker import Broker
from streaming.decoding import JsonDecoder
from streaming.rules import EventRules
from tests.consumers.promoting import promoted_under_load, two_versions
from tests.consumers.test_server_process import server
from tests.crash.driver import STEPS, Driver
from tests.crash.worlds import FORGETFUL, LEARNERS, World
from tests.kafka.dying import KafkaDriver
from tests.kafka.worlds import KafkaWorld

COMMITS = range(1, 7)  # commits of a run at which each step is struck
LINES_AT_ONCE = 10_000
KILLS_EACH = 12  # most random kills that one version bears


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts and record them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=__doc__)
    parser.add_argument("--moments", type=int, default=200, help="kills at random moments (200)")
    parser.add_argument("--kafka-moments", type=int, default=100, help="kills while Kafka delivers (100)")
    parser.add_argument("--lines", type=int, default=1_000_000, help="mutated lines (1000000)")
    parser.add_argument("--requests", type=int, default=20_000, help="while versions are promoted (20000)")
    parser.add_argument("--promotions", type=int, default=100, help="promotions and roll-backs (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and mutations (0)")
    chosen = parser.parse_args(arguments)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="freshet-crash-") as home, Driver() as driver:
        worlds = [
            World(Path(home) / name.replace(" ", "-"), driver, name.split()[-1], kept=kept)
            for name, kept in (*((learner, {}) for learner in LEARNERS), ("forgetful softmax", FORGETFUL))
        ]
        figures["steps"] = _steps(worlds)
        figures["moments"] = _moments(worlds, chosen.moments, Random(chosen.seed))
    figures["kafka_moments"] = _kafka_moments(chosen.kafka_moments, Random(chosen.seed))
    figures["promotions"] = _promotions(chosen.requests, chosen.promotions)
    figures["mutated_lines"] = _mutated_lines(chosen.lines, chosen.seed)
    print(record("crash", figures))
    return 0


def _steps(worlds: list[World]) -> dict[str, Any]:
    """Each step of each of the first commits of a run, then all of them one after the other."""
    begun, kills, versions = time.monotonic(), 0, 0
    for world in worlds:
        for step in STEPS:
            for commit in COMMITS:
                kills += world.killed_at([(step, commit)])
                versions += 1
            print(f"steps: {world.learner}, {step}: {kills} kills, stores equal", file=sys.stderr, flush=True)
        kills += world.killed_at([(step, 1 + k % 2) for k, step in enumerate(STEPS)])
        versions += 1
    wanted = len(worlds) * (len(STEPS) * len(COMMITS) + len(STEPS))
    if kills != wanted:
        raise AssertionError(f"{kills} workers were killed, expected {wanted}; a step was not reached")
    return _figures(kills, versions, begun)


def _moments(worlds: list[World], wanted: int, random: Random) -> dict[str, Any]:
    """Kills from outside at random moments, until there were as many as wanted."""
    begun, kills, versions = time.monotonic(), 0, 0
    while kills < wanted:
        world = worlds[versions % len(worlds)]
        kills += world.killed_at_moments(random, min(KILLS_EACH, wanted - kills))
        versions += 1
        print(f"moments: {kills} of {wanted} kills, stores equal", file=sys.stderr, flush=True)
    return _figures(kills, versions, begun)


def _kafka_moments(wanted: int, random: Random) -> dict[str, Any]:
    """Kills at random moments while records arrive on a real Kafka, over one partition and over four."""
    begun, kills, versions = time.monotonic(), 0, 0
    shapes = [(partitions, learner) for learner in LEARNERS for partitions in (1, 4)]
    each = min(KILLS_EACH, -(-wanted // len(shapes)))
    with (
        tempfile.TemporaryDirectory(prefix="freshet-crash-") as home,
        Broker() as broker,
        KafkaDriver() as driver,
    ):
        while kills < wanted:
            partitions, learner = shapes[versions % len(shapes)]
            name = f"{learner}-{partitions}-{versions}"
            world = KafkaWorld(Path(home, name), driver, broker.bootstrap, name, partitions, learner)
            kills += world.killed_at_moments(random, min(each, wanted - kills))
            world.finish()
            versions += 1
            what = "stores equal" if partitions == 1 else "each event learned once"
            told = f"kafka moments: {learner}, {partitions} partitions: {kills} of {wanted} kills, {what}"
            print(told, file=sys.stderr, flush=True)
    return _figures(kills, versions, begun)


def _promotions(requests: int, changes: int) -> dict[str, Any]:
    """Requests to a server while its champion changes: each answer is of one version, and none fails."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="freshet-crash-") as home:
        two_versions(Path(home))
        with server(Path(home)) as (_, address):
            seen = promoted_under_load(Path(home), address, requests, changes)
    return {
        "requests": requests,
        "promotions": changes,
        "answers": dict(seen),
        "wrong_or_failed": 0,  # the first one raises
        "seconds": round(time.monotonic() - begun, 1),
    }


def _figures(kills: int, versions: int, begun: float) -> dict[str, Any]:
    return {
        "kills": kills,
        "versions_compared": versions,
        "keys_that_differ": 0,  # the first one raises
        "seconds": round(time.monotonic() - begun, 1),
    }


def _mutated_lines(count: int, seed: int) -> dict[str, Any]:
    """Lines changed at random: the kernel and the slow definition agree on each, and none is lost."""
    begun, events, bad, blank = time.monotonic(), 0, 0, 0
    # Loaded by name: the mutations belong to the decoder's tests.
    decoding = importlib.import_module("tests.streaming.test_decoding")
    for first in range(0, count, LINES_AT_ONCE):
        lines = decoding.mutated_lines(min(LINES_AT_ONCE, count - first), seed + first)
        decoding.same_on_both_paths(lines, decoding.RULES)
        ends = np.cumsum([len(line) for line in lines])
        starts = np.concatenate([[0], ends[:-1]])
        data, offsets = np.frombuffer(b"".join(lines), np.uint8), np.arange(len(lines))
        found, refused = JsonDecoder(EventRules(), None).decode(data, starts, ends, offsets)
        told = [*found.offsets.tolist(), *(record.offset for record in refused)]
        left = set(range(len(lines))) - set(told)
        if len(told) + len(left) != len(lines) or any(lines[k].strip() for k in left):
            raise AssertionError(f"of lines {first} to {first + len(lines)} some are no event, bad or blank")
        events, bad, blank = events + len(found), bad + len(refused), blank + len(left)
    return {
        "lines": count,
        "events": events,
        "bad": bad,
        "blank": blank,
        "exceptions": 0,  # the first one raises
        "seconds": round(time.monotonic() - begun, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
