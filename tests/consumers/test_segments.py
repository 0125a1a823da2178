"""The embedded event log: what appenders promise, what kills and full disks leave, what followers read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from consumers.eventlog.files import FilesLog
from consumers.eventlog.segments import Mark, Segments, is_segments, read_mark, segments_in
from consumers.version_logs import known_files
from streaming.errors import InputError, StoreFullError, UsageError
from streaming.rules import EventRules
from tests.state.mounts import disk

ROOT = Path(__file__).parents[2]


def line(n: int) -> bytes:
    return json.dumps({"user": f"u{n}", "item": "i", "ts": 1_700_000_000}).encode()


def lines(*numbers: int) -> list[bytes]:
    return [line(n) for n in numbers]


def read_all(directory: Path) -> list[str]:
    """Users of all events, read to the end."""
    with closing(FilesLog([directory], EventRules())) as log:
        return taken(log)


def taken(log: FilesLog, most: int = 100) -> list[str]:
    """Users of the events that are there now."""
    users: list[str] = []
    while (found := log.poll(most, 0.0)) is not None:
        users += [found.events.users[k] for k in range(len(found.events))]
    return users


def users(numbers: Sequence[int]) -> list[str]:
    return [f"u{n}" for n in numbers]


def test_lines_are_appended_in_order_and_the_mark_says_how_far(tmp_path: Path) -> None:
    log = Segments(tmp_path / "events")
    assert log.settle() == Mark(0, 0)
    mark = log.append(lines(1, 2))
    assert mark == log.append([]) == read_mark(tmp_path / "events")
    (segment,) = segments_in(tmp_path / "events")
    assert segment.name == "00000000000000000000.jsonl"
    assert segment.read_bytes() == line(1) + b"\n" + line(2) + b"\n"
    assert mark.length == segment.stat().st_size


def test_segment_that_is_full_is_followed_by_the_next(tmp_path: Path) -> None:
    log = Segments(tmp_path, segment_bytes=3 * len(line(1)))
    for n in range(5):
        log.append(lines(n))
    assert [path.name[18:20] for path in segments_in(tmp_path)] == ["00", "01", "02"]
    assert read_all(tmp_path) == users(range(5))
    # One that is longer than a segment has a segment of its own.
    log.append(lines(*range(10, 20)))
    assert len(segments_in(tmp_path)) == 4


def test_half_line_of_a_killed_appender_is_cut_off_and_whole_ones_are_kept(tmp_path: Path) -> None:
    log = Segments(tmp_path)
    log.append(lines(1))
    (segment,) = segments_in(tmp_path)
    with segment.open("ab") as file:
        file.write(line(2) + b"\n" + line(3)[:10])
    log.append(lines(4))
    assert segment.read_bytes().splitlines() == lines(1, 2, 4)
    assert read_all(tmp_path) == users([1, 2, 4])


@pytest.mark.parametrize("mark", [b"", b"nothing of the kind", b"0" * 51])
def test_mark_that_a_power_cut_spoiled_is_made_anew(tmp_path: Path, mark: bytes) -> None:
    log = Segments(tmp_path)
    log.append(lines(1, 2))
    (tmp_path / "durable").write_bytes(mark)
    assert read_mark(tmp_path) is None
    assert read_all(tmp_path) == users([1, 2])
    assert read_mark(tmp_path) == Mark(0, 2 * len(line(1)) + 2)


def test_follower_reads_only_what_is_durable(tmp_path: Path) -> None:
    log = Segments(tmp_path)
    log.append(lines(1))
    follower = FilesLog([tmp_path], EventRules(), follow=True)
    assert taken(follower) == users([1])
    (segment,) = segments_in(tmp_path)
    with segment.open("ab") as file:
        file.write(line(2) + b"\n" + line(3)[:10])
    assert taken(follower) == []
    log.append(lines(4))  # settles: the half line that nobody has read goes
    assert taken(follower) == users([2, 4])
    assert not follower.ended
    follower.close()


def test_follower_notices_new_segments_and_leaves_nothing_out(tmp_path: Path) -> None:
    log = Segments(tmp_path, segment_bytes=200)
    log.settle()
    follower = FilesLog([tmp_path], EventRules(), follow=True)
    assert taken(follower) == []
    found: list[str] = []
    for n in range(0, 60, 3):
        log.append(lines(n, n + 1, n + 2))
        if n % 4 == 0:
            found += taken(follower, most=2)
    found += taken(follower)
    assert found == users(range(60))
    assert len(follower.sources()) == len(segments_in(tmp_path)) > 10
    assert sum(left or 0 for left in follower.lag().values()) == 0
    follower.close()


def test_reader_that_does_not_follow_ends_and_another_goes_on(tmp_path: Path) -> None:
    log = Segments(tmp_path, segment_bytes=100)
    log.append(lines(1, 2))
    log.append(lines(3, 4))
    first = FilesLog([tmp_path], EventRules())
    assert taken(first) == users([1, 2, 3, 4]) and first.ended
    log.append(lines(5, 6))
    again = FilesLog([tmp_path], EventRules())
    again.seek(dict.fromkeys(first.sources(), 2))
    assert taken(again) == users([5, 6])
    first.close()
    again.close()


def test_directory_of_other_files_is_refused_as_before(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_bytes(line(1))
    assert not is_segments(tmp_path)
    with pytest.raises(InputError, match="is a directory"):
        FilesLog([tmp_path], EventRules())


def test_appenders_in_many_threads_leave_whole_groups(tmp_path: Path) -> None:
    def append(first: int) -> None:
        log = Segments(tmp_path, segment_bytes=2000)
        for n in range(first, first + 20, 2):
            log.append(lines(n, n + 1))

    threads = [threading.Thread(target=append, args=(100 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [int(user[1:]) for user in read_all(tmp_path)]
    assert sorted(found) == sorted(n for k in range(4) for n in range(100 * k, 100 * k + 20))
    assert all(second == first + 1 for first, second in zip(found[::2], found[1::2], strict=True))


def test_acknowledged_lines_are_there_after_a_kill(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from consumers.eventlog.segments import Segments\n"
        "log = Segments(Path(sys.argv[1]), 4000)\n"
        "for n in range(10**9):\n"
        '    log.append([b\'{"user": "u%d", "item": "i", "ts": 1700000000}\' % n])\n'
        "    print(n, flush=True)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for told in process.stdout:
            if int(told) == 150:
                process.send_signal(signal.SIGKILL)
                break
        acknowledged = [150, *map(int, process.stdout)]
    found = read_all(tmp_path)
    assert len(found) >= acknowledged[-1] + 1
    assert found == users(range(len(found)))


def test_full_disk_takes_nothing_and_leaves_the_log_whole(tmp_path: Path) -> None:
    small = tmp_path / "small"
    with disk(small, "256k"):
        log = Segments(small / "events")
        log.append(lines(1))
        with pytest.raises(StoreFullError, match="none of them was taken"):
            log.append([line(n) for n in range(20_000)])
        log.append(lines(2))
        assert read_all(small / "events") == users([1, 2])


def test_version_that_is_told_nothing_reads_what_the_server_was_sent(tmp_path: Path) -> None:
    events = tmp_path / "events"
    segment = str(events / "00000000000000000000.jsonl")
    with pytest.raises(UsageError, match="give --follow"):
        known_files(events, [], follow=False)
    assert known_files(events, [], follow=True) == [str(events)]
    assert is_segments(events)
    assert known_files(events, [], follow=False) == [str(events)]
    assert known_files(events, ["/data/a.jsonl"], follow=True) == ["/data/a.jsonl"]
    assert known_files(events, ["/data/a.jsonl", segment], follow=True) == ["/data/a.jsonl", str(events)]
