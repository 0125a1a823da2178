"""`freshet work` itself: input that fails, disks that fail, signals; each with what is left afterwards."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from prometheus_client import CollectorRegistry

from consumers.cli import main
from consumers.dead_letters import DeadLetters
from state.spec import new_spec
from state.versions import Registry, Version
from tests.crash.worlds import difference, plain
from tests.state.mounts import disk, remount

ROOT = Path(__file__).parents[2]
QUIET = ("--set", "worker.metrics_port=none", "--set", "worker.log_level=error")


def events(n: int, first: int = 0) -> list[dict[str, Any]]:
    numbers = range(first, first + n)
    return [{"user": f"u{k * k % 37}", "item": f"i{k * 7 % 23}", "ts": 1_700_000_000 + k} for k in numbers]


def lines(n: int, first: int = 0) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events(n, first))


def make(name: str = "mine", learner: str = "popularity") -> Version:
    return Registry(Path("freshet-home")).create(name, new_spec(learner, {"evaluation_rate": 0.1}))


def command(*words: str) -> int:
    """`freshet` in this process, with a metrics registry of its own: a process has one worker otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("consumers.commands.work.REGISTRY", CollectorRegistry())
        return main([*QUIET, *words])


def work(capsys: pytest.CaptureFixture[str], name: str, *words: str) -> dict[str, Any]:
    code = command("work", name, *words, "--json")
    printed = capsys.readouterr()
    assert code == 0, printed.err
    report: dict[str, Any] = json.loads(printed.out)
    return report


def refused(capsys: pytest.CaptureFixture[str], name: str, *words: str, code: int = 1) -> str:
    assert command("work", name, *words) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return " ".join(printed.err.split())


@contextmanager
def running(name: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`freshet work` as a process of its own; killed at the end if it still runs."""
    freshet = [sys.executable, "-c", "from consumers.cli import main; raise SystemExit(main())"]
    settings = ["worker.metrics_port=none", "worker.log_level=debug", "worker.commit_interval_min=10ms"]
    flags = [word for setting in settings for word in ("--set", setting)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*freshet, *flags, "work", name, *words, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(process: subprocess.Popen[str], wanted: str) -> str:
    """Read the process's log up to a line that contains `wanted`."""
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        if wanted in line:
            return line
    raise AssertionError(f"the worker ended without {wanted!r}; it said: {''.join(said[-20:])}")


# -- going on ------------------------------------------------------------------------------------


def test_second_run_of_the_same_command_learns_nothing_twice(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = make()
    Path("events.jsonl").write_bytes(lines(300))
    first = work(capsys, "mine", "--from", "events.jsonl", "--until-end")
    kept = plain(version)
    again = work(capsys, "mine", "--from", "events.jsonl", "--until-end")
    assert (first["events"], first["learned"]) == (300, 300)
    assert (again["events"], again["learned"], again["commits"]) == (0, 0, 0)
    assert first["offsets"] == again["offsets"] == {str(bare / "events.jsonl"): 300}
    assert difference(plain(version), kept) == []


def test_appended_events_are_all_that_the_next_run_learns(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version, whole = make(), make("whole")
    path = Path("events.jsonl")
    path.write_bytes(lines(200))
    work(capsys, "mine", "--from", "events.jsonl")
    path.write_bytes(lines(300))
    report = work(capsys, "mine")  # the file is known by now
    assert (report["events"], report["learned"]) == (100, 100)
    work(capsys, "whole", "--from", "events.jsonl")
    assert difference(plain(version), plain(whole)) == []


def test_cache_smaller_than_a_batch_changes_nothing(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, large = make("small"), make("large")
    Path("events.jsonl").write_bytes(lines(500))
    assert command("--set", "worker.user_cache=3", "work", "small", "--from", "events.jsonl") == 0
    capsys.readouterr()
    work(capsys, "large", "--from", "events.jsonl")
    assert difference(plain(small), plain(large)) == []


# -- input that fails -----------------------------------------------------------------------------


def whole_run(capsys: pytest.CaptureFixture[str], *files: str) -> dict[bytes, bytes]:
    version = make("undisturbed")
    work(capsys, "undisturbed", "--from", *files)
    return plain(version)


def test_missing_file_is_named_and_nothing_is_learned(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = make()
    Path("one.jsonl").write_bytes(lines(10))
    message = refused(capsys, "mine", "--from", "one.jsonl", "two.jsonl")
    assert str(bare / "two.jsonl") in message
    assert "does not exist" in message
    assert not any(key.startswith(b"u") for key in plain(version))


def compressed(suffix: str) -> Callable[[bytes], bytes]:
    return gzip.compress if suffix == "gz" else zstandard.ZstdCompressor().compress


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_truncated_compressed_file_keeps_what_came_before_and_goes_on_with_the_whole(
    bare: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    version, path = make(), Path(f"events.jsonl.{suffix}")
    Path("first.jsonl").write_bytes(lines(100))
    data = compressed(suffix)(lines(30_000, 100))
    path.write_bytes(data[: len(data) // 2])
    message = refused(capsys, "mine", "--from", "first.jsonl", str(path))
    assert str(path) in message and "cut short" in message and "run the same command again" in message
    learned = sum(key.startswith(b"i") for key in plain(version))
    assert learned == 23, "what was read before the damage is learned"
    path.write_bytes(data)
    work(capsys, "mine", "--from", "first.jsonl", str(path))
    assert difference(plain(version), whole_run(capsys, "first.jsonl", str(path))) == []


def test_truncated_parquet_is_refused_and_goes_on_with_the_whole(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version, path = make(), Path("events.parquet")
    Path("first.jsonl").write_bytes(lines(100))
    pq.write_table(pa.Table.from_pylist(events(2000, 100)), path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "events.parquet" in refused(capsys, "mine", "--from", "first.jsonl", "events.parquet")
    path.write_bytes(data)
    work(capsys, "mine", "--from", "first.jsonl", "events.parquet")
    assert difference(plain(version), whole_run(capsys, "first.jsonl", "events.parquet")) == []


def test_shrunk_file_is_refused_until_it_is_whole_again(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version, path = make(), Path("events.jsonl")
    path.write_bytes(lines(200))
    work(capsys, "mine", "--from", "events.jsonl")
    kept = plain(version)
    path.write_bytes(lines(150))
    message = refused(capsys, "mine", "--from", "events.jsonl")
    assert "150" in message and "200" in message
    assert difference(plain(version), kept) == []
    path.write_bytes(lines(250))
    assert work(capsys, "mine", "--from", "events.jsonl")["events"] == 50


def test_input_that_vanishes_while_followed_loses_nothing(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version, path = make(), Path("events.jsonl")
    path.write_bytes(lines(120))
    with running("mine", "--from", "events.jsonl", "--follow") as process:
        until(process, "batch_committed")
        os.rename(path, "moved")
        assert process.wait(120) == 1
        assert process.stderr is not None
        message = process.stderr.read()
    assert "disappeared" in message and "Traceback" not in message
    assert plain(version)
    os.rename("moved", path)
    path.write_bytes(lines(200))
    assert work(capsys, "mine", "--from", "events.jsonl")["events"] == 80
    assert difference(plain(version), whole_run(capsys, "events.jsonl")) == []


BAD = {
    b"nonsense": "not JSON",
    b"[1, 2]": "no object",
    b'{"user": "u", "ts": 1700000000}': "no item",
    b'{"user": 1.5, "item": "i", "ts": 1700000000}': "user of another type",
    b'{"user": "u", "item": "i", "ts": "soon"}': "no time",
    b'{"user": "u", "item": "i", "ts": -5}': "negative time",
    b'{"user": "u", "item": "i", "ts": 99999999999}': "far future",
    b'{"user": "u", "item": "i", "ts": 1700000000, "value": NaN}': "NaN",
    b'{"user": "u", "item": "i", "ts": 1700000000, "value": 1e999}': "infinite",
    b'{"user": "", "item": "i", "ts": 1700000000}': "empty id",
    b'{"user": "' + b"x" * 300 + b'", "item": "i", "ts": 1700000000}': "long id",
    b'{"user": "a\\u0000b", "item": "i", "ts": 1700000000}': "control character",
    b'{"user": "\\ud800", "item": "i", "ts": 1700000000}': "lone surrogate",
    b'{"user": "\xff", "item": "i", "ts": 1700000000}': "not UTF-8",
}


def test_bad_records_of_each_kind_are_set_aside_once_and_their_neighbours_learned(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = make()
    good = lines(len(BAD)).splitlines()
    mixed = [line for pair in zip(good, BAD, strict=True) for line in pair]
    Path("events.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(mixed))
    report = work(capsys, "mine", "--from", "events.jsonl")
    assert (report["events"], report["dead_letters"]) == (len(good), len(BAD))
    found = list(DeadLetters(version.dead_letters_path).read())
    assert [(d.source, d.offset, d.line) for d in found] == [
        (str(bare / "events.jsonl"), 2 * k + 1, 2 * k + 2) for k in range(len(BAD))
    ]
    for letter, raw in zip(found, BAD, strict=True):
        assert letter.raw == raw[:1000].decode("utf-8", "backslashreplace")
        assert letter.reason
    work(capsys, "mine", "--from", "events.jsonl")
    assert list(DeadLetters(version.dead_letters_path).read()) == found


@pytest.mark.parametrize("raw", BAD, ids=list(BAD.values()))
def test_bad_record_stops_the_worker_where_that_is_set(
    bare: Path, capsys: pytest.CaptureFixture[str], raw: bytes
) -> None:
    version, path = make(), Path("events.jsonl")
    path.write_bytes(lines(20) + raw + b"\n" + b"worse\n" + lines(5, 20))
    stop = ("--set", "events.on_bad_record=stop")
    for _ in range(2):
        assert command(*stop, "work", "mine", "--from", "events.jsonl") == 1
        message = " ".join(capsys.readouterr().err.split())
        assert "events.jsonl@20, line 21: " in message and "dead_letter" in message
        assert json.loads(plain(version)[b"o000000"][:-4])["next_offset"] == 20
    path.write_bytes(lines(25))
    assert work(capsys, "mine", "--from", "events.jsonl")["events"] == 5
    assert difference(plain(version), whole_run(capsys, "events.jsonl")) == []


# -- stores that fail ------------------------------------------------------------------------------


def test_store_of_another_format_is_refused(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = make()
    Path("events.jsonl").write_bytes(lines(50))
    with version.open() as store:
        store.write([(b"mformat", b"7")])
    assert "format 7" in refused(capsys, "mine", "--from", "events.jsonl")


def test_damaged_row_is_refused_with_what_to_do(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = make()
    Path("events.jsonl").write_bytes(lines(50))
    work(capsys, "mine", "--from", "events.jsonl")
    kept = plain(version)
    row = kept[b"ii0"]
    with version.open() as store:
        store.write([(b"ii0", row[:50] + bytes([row[50] ^ 16]) + row[51:])])
    message = refused(capsys, "mine", "--from", "events.jsonl")
    assert "ii0" in message and "checksum" in message and "versions restore" in message
    with version.open() as store:
        store.write([(b"ii0", row)])
    assert work(capsys, "mine", "--from", "events.jsonl")["events"] == 0


def test_full_disk_loses_nothing_and_the_same_command_goes_on(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bare / "events.jsonl"
    many = [{**e, "user": f"user-{k:06d}"} for k, e in enumerate(events(30_000))]
    bad = b"".join(b"bad %d\n" % k for k in range(50))
    path.write_bytes(b"".join(json.dumps(e).encode() + b"\n" for e in many) + bad)
    with disk(bare / "freshet-home", "3m"):
        version = make()
        words = ("--set", "worker.commit_interval_min=0", "--set", "worker.commit_share=1", "work", "mine")
        same = (*words, "--from", str(path))
        for _ in range(2):
            assert command(*same) == 1
            message = " ".join(capsys.readouterr().err.split())
            assert "no space is left" in message and "run the same command again" in message
            assert "Traceback" not in message
        remount(bare / "freshet-home", "size=200m")
        assert command(*same) == 0
        capsys.readouterr()
        after = plain(version)
        assert len(list(DeadLetters(version.dead_letters_path).read())) == 50
    assert difference(after, whole_run(capsys, str(path))) == []


def test_read_only_disk_is_refused_and_the_same_command_goes_on(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bare / "events.jsonl"
    path.write_bytes(lines(100))
    with disk(bare / "freshet-home", "64m"):
        version = make()
        work(capsys, "mine", "--from", str(path))
        path.write_bytes(lines(200))
        remount(bare / "freshet-home", "ro")
        assert "Make it writable" in refused(capsys, "mine", "--from", str(path))
        remount(bare / "freshet-home", "rw")
        assert work(capsys, "mine", "--from", str(path))["events"] == 100
        after = plain(version)
    assert difference(after, whole_run(capsys, str(path))) == []


# -- signals and following -------------------------------------------------------------------------


def test_ctrl_c_commits_what_was_learned_and_leaves(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version, path = make(), Path("events.jsonl")
    path.write_bytes(lines(100))
    with running("mine", "--from", "events.jsonl", "--follow") as process:
        until(process, "batch_committed")
        with path.open("ab") as file:
            file.write(lines(50, 100))
        until(process, '"events": 150')
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
    assert report["events"] == 150
    assert difference(plain(version), whole_run(capsys, "events.jsonl")) == []


def test_running_worker_keeps_its_store_until_sigterm_lets_it_leave(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make()
    Path("events.jsonl").write_bytes(lines(50))
    with running("mine", "--from", "events.jsonl", "--follow") as process:
        until(process, "batch_committed")
        assert "another process holds" in refused(capsys, "mine", "--from", "events.jsonl")
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    assert work(capsys, "mine", "--from", "events.jsonl")["events"] == 0


def test_reads_standard_input_alone_and_between_files(
    bare: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make()
    Path("events.jsonl").write_bytes(lines(50))
    for name in ("a.jsonl", "b.jsonl"):
        Path(name).write_bytes(lines(7))
    with Path("events.jsonl").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        report = work(capsys, "mine", "--from", "-", "--until-end")
        assert (report["learned"], report["offsets"]) == (50, {"-": 50})
        stream.seek(0)
        report = work(capsys, "mine", "--from", "a.jsonl", "-", "b.jsonl", "--until-end")
    files = {str(bare / name): 7 for name in ("a.jsonl", "b.jsonl")}
    assert (report["learned"], report["offsets"]) == (64, {"-": 100, **files})


def test_says_how_much_was_done_in_plain_words(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make()
    Path("one.jsonl").write_bytes(lines(1) + b"no event\n")
    assert command("work", "mine", "--from", "one.jsonl") == 0
    said = capsys.readouterr().out
    assert "mine: 1 event in" in said
    assert ", 1 commit\n" in said
    assert "1 bad record set aside" in said
