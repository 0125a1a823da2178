"""Readers beside a learner under heavy change: no answer that was true at no moment around the question."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from state.answers import Answers
from state.reader import Reader
from state.spec import new_spec
from state.versions import Registry
from streaming.errors import StoreError, UnknownIdError
from tests.state.witness import Told, wrong

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0
_FEWEST = 100  # answers
SMALL = {"dimension": 8, "users_live_s": 86_400, "items_live_s": 86_400}
LEARNERS = {
    "softmax": {"negatives": 5, "history": 10, "context": 5, "recent": 50, "start": 5},
    "biased_mf": {},
}


def question(random: Random) -> Callable[[Answers], object]:
    """Some question."""
    user, item = f"user-{random.randrange(80 + 60)}", random.randrange(60 + 45)
    name = f"{'é' * (item % 3)}{item}"
    ask: tuple[Callable[[Answers], object], ...] = (
        lambda a: a.embedding("item", name),
        lambda a: a.embedding("user", user),
        lambda a: a.recommend(user, 20, include_recent=True),
        lambda a: a.similar("item", name, 5, "dot"),
        lambda a: a.similar("user", user, 5, "dot"),
    )
    return random.choices(ask, (6, 6, 3, 2, 1))[0]


def ask_all(home: Path, name: str, seed: int, stop: threading.Event, told: list[Told]) -> None:
    """Ask until told to stop."""
    random = Random(seed)
    with closing(Reader(Registry(home).get(name))) as reader:
        while not stop.is_set():
            asked, begun = question(random), time.monotonic_ns()
            try:
                answer = reader.ask(asked)
            except (UnknownIdError, StoreError):  # a refusal says nothing that is wrong
                continue
            told.append(Told(begun, time.monotonic_ns(), answer))  # type: ignore[arg-type]


def stressed(
    directory: Path, learner: str, events: int, *, seed: int = 0, threads: int = 3
) -> tuple[int, list[str]]:
    """Readers ask while that many events are learned; answers, and what was wrong with them."""
    Registry(directory).create("v", new_spec(learner, {**SMALL, **LEARNERS[learner]}))
    program = "from tests.state.witness import main; main()"
    command = [sys.executable, "-c", program, str(directory), "v", "20", str(seed)]
    stop, told = threading.Event(), [list[Told]() for _ in range(threads)]
    failed: list[BaseException] = []

    def ask(number: int) -> None:
        try:
            ask_all(directory, "v", seed * threads + number, stop, told[number])
        except BaseException as error:
            failed.append(error)

    with subprocess.Popen([*command, str(directory)], cwd=ROOT, env={**os.environ}) as worker:
        progress, until = directory / "events", time.monotonic() + WAIT_S + events / 100
        asking = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]

        def await_true(done: Callable[[], bool]) -> None:
            while not done():
                seen = f"code {worker.poll()}, {sum(map(len, told))} answers"
                assert worker.poll() is None and time.monotonic() < until, seen
                time.sleep(0.01)

        def enough() -> bool:
            learned = int(progress.read_text() or 0) >= events
            return bool(failed) or (learned and sum(map(len, told)) >= _FEWEST)

        try:
            await_true(progress.exists)
            for thread in asking:
                thread.start()
            await_true(enough)
        finally:
            stop.set()
            for thread in asking:
                if thread.ident is not None:
                    thread.join()
            (directory / "stop").touch()
        assert worker.wait(WAIT_S) == 0
    if failed:
        raise failed[0]
    known = pickle.loads((directory / "known").read_bytes())
    return sum(map(len, told)), [words for one in told for each in one for words in wrong(known, each)]


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_answer_was_true_at_a_moment_around_its_question(tmp_path: Path, learner: str) -> None:
    answers, found = stressed(tmp_path, learner, 1500)
    assert answers >= _FEWEST
    assert not found, f"{len(found)} of {answers}, first: {found[0]}"
