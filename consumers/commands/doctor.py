"""`freshet doctor`: this machine and the home directory enter; findings, each with a remedy, leave."""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import consumers
from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings, fallback_home
from consumers.commands.output import emit, stderr, table
from consumers.findings import Finding
from streaming.errors import SettingError

LEAST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 256 * 2**20
LEAST_OPEN_FILES = 1024
CLOCK_SKEW_S = 5.0
# Nothing of Freshet was written before this moment (2025-01-01), nor will be after the other (2100-01-01).
CLOCK_RANGE_S = (1_735_689_600.0, 4_102_444_800.0)
_LIBRARIES = ("numpy", "numba", "pyarrow", "rocksdict")


def doctor(*, json: Switch = False) -> int:
    """Check that all is well on this machine: exit code 1 when something is not.

    Args:
        json: Print a list of {check, ok, detail, remedy}.
    """
    findings = examine()
    emit(findings, json, lambda: table(("check", "", "found"), [_line(one) for one in findings]))
    failed = [one for one in findings if not one.ok]
    if failed and not json:
        stderr.print(*(f"{one.check}: {one.remedy}" for one in failed), sep="\n")
    return 1 if failed else 0


def examine() -> list[Finding]:
    """All findings; the home directory is neither created nor changed."""
    settings, home = _settings()
    checks: tuple[Callable[[Path], Finding], ...] = (
        _python,
        _packages,
        _libraries,
        _home,
        _free_space,
        _rocksdb,
        _kernel_cache,
        _clock,
        _open_files,
        _stores,
    )
    return [settings, *(check(home) for check in checks), *(_kafka() if settings.ok else ())]


def _settings() -> tuple[Finding, Path]:
    try:
        settings = current_settings()
    except SettingError as error:
        return Finding("settings", False, str(error), "Correct this setting."), fallback_home()
    return Finding("settings", True, str(settings.config or "no file, defaults")), settings.home


def _python(_: Path) -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    least = ".".join(map(str, LEAST_PYTHON))
    ok = sys.version_info[:2] >= LEAST_PYTHON
    return Finding(
        "python", ok, f"{found} at {sys.executable}", "" if ok else f"Use Python {least} or newer."
    )


def _packages(_: Path) -> Finding:
    """Whether `streaming`, `consumers` and `state` are Freshet's: other projects install such names too."""
    root = Path(next(iter(consumers.__path__))).parent
    for name in ("streaming", "state"):
        spec = find_spec(name)
        places = list(spec.submodule_search_locations or ()) if spec else []
        if places != [str(root / name)]:
            where = ", ".join(places) or "nowhere"
            remedy = f"Give Freshet an environment of its own, without the other package named {name}."
            return Finding("packages", False, f"{name} comes from {where}, not from {root}", remedy)
    return Finding("packages", True, f"streaming, consumers and state come from {root}")


def _libraries(_: Path) -> Finding:
    versions = []
    for name in _LIBRARIES:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            remedy = "Install what the lock names: `make setup`."
            return Finding("libraries", False, f"{name} cannot be imported: {error}", remedy)
        versions.append(f"{name} {getattr(module, '__version__', '')}".strip())
    return Finding("libraries", True, ", ".join(versions))


def _home(home: Path) -> Finding:
    place = _existing(home)
    if not place.is_dir():
        return Finding("home", False, f"{place} is not a directory", "Name another directory with --home.")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        remedy = f"Make {place} writable, or name another directory with --home."
        return Finding("home", False, f"{place} cannot be written: {error.strerror}", remedy)
    return Finding("home", True, f"{home} can be written" if place == home else f"{home} can be created")


def _free_space(home: Path) -> Finding:
    place = _existing(home)
    free = shutil.disk_usage(place).free
    ok = free >= LEAST_FREE_BYTES
    remedy = "" if ok else f"Free at least {LEAST_FREE_BYTES >> 20} MiB, or name another disk with --home."
    return Finding("free space", ok, f"{free / 2**30:.1f} GiB on the disk of {place}", remedy)


def _rocksdb(home: Path) -> Finding:
    """Opens a store where the versions' stores lie, writes, opens it again and reads."""
    remedy = "Use a local disk with room for the home; network disks often lack locks or synced writes."
    # RocksDB reports by bare Exception, a broken installation by ImportError: both are what is asked here.
    try:
        from rocksdict import Options, Rdict, WriteOptions

        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=_existing(home)) as place:
            options, synced = Options(raw_mode=True), WriteOptions()
            synced.sync = True
            store = Rdict(f"{place}/store", options)
            store.put(b"key", b"value", write_opt=synced)
            store.close()
            store = Rdict(f"{place}/store", options)
            read = store.get(b"key")
            store.close()
    except Exception as error:
        return Finding("rocksdb", False, f"a temporary store failed: {error}", remedy)
    if read != b"value":
        return Finding("rocksdb", False, f"a temporary store gave back {read!r}", remedy)
    return Finding("rocksdb", True, "a temporary store was written, opened again and read")


def _kernel_cache(_: Path) -> Finding:
    """Where numba keeps compiled kernels: NUMBA_CACHE_DIR, else beside the source, else the user's cache."""
    streaming = Path(next(iter(consumers.__path__))).parent / "streaming"
    named = os.environ.get("NUMBA_CACHE_DIR")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    places = [Path(named)] if named else [streaming / "__pycache__", user / "numba"]
    for place in places:
        if os.access(_existing(place), os.W_OK):
            return Finding("kernel cache", True, f"compiled kernels are kept in {place}")
    remedy = "Set NUMBA_CACHE_DIR to a directory that can be written; else each start compiles for a minute."
    return Finding("kernel cache", False, f"{' and '.join(map(str, places))} cannot be written", remedy)


def _clock(home: Path) -> Finding:
    now = time.time()
    remedy = "Set the clock, and let a time service keep it: freshness and expiry are measured by it."
    said = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if not CLOCK_RANGE_S[0] <= now <= CLOCK_RANGE_S[1]:
        return Finding("clock", False, f"it shows {said}", remedy)
    try:
        with tempfile.TemporaryFile(dir=_existing(home)) as file:
            skew = os.fstat(file.fileno()).st_mtime - time.time()
    except OSError:
        return Finding("clock", True, f"{said}; not compared with the disk, which cannot be written")
    if abs(skew) > CLOCK_SKEW_S:
        return Finding("clock", False, f"{said}, while the home's disk is {skew:+.0f} s from it", remedy)
    return Finding("clock", True, said)


def _open_files(_: Path) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    ok = unlimited or soft >= LEAST_OPEN_FILES
    hard_said = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    detail = "unlimited" if unlimited else f"{soft:,} allowed (can be raised to {hard_said})"
    return Finding("open files", ok, detail, "" if ok else "Raise the limit: `ulimit -n 4096`.")


def _stores(home: Path) -> Finding:
    """Which stores are in use. A RocksDB lock ends with its process, so a LOCK file alone says nothing."""
    found = sorted(home.rglob("LOCK")) if home.is_dir() else []
    table = Path("/proc/locks")
    if not found:
        return Finding("stores", True, "none yet")
    if not table.exists():
        return Finding("stores", True, f"{len(found)} found; this system does not tell which are in use")
    # "1: POSIX ADVISORY WRITE pid major:minor:inode start end"; a waiting process has "->" as a second word.
    rows = [line.split() for line in table.read_text().splitlines()]
    holder = {row[5].rpartition(":")[2]: row[4] for row in rows if len(row) > 5 and row[1] != "->"}
    held = [(lock.parent, holder.get(str(lock.stat().st_ino))) for lock in found]
    used = [f"{store} by process {pid}" for store, pid in held if pid]
    return Finding("stores", True, f"{len(found)} found; in use: {', '.join(used) or 'none'}")


def _kafka() -> list[Finding]:
    """The broker and the topic, where it is set which; Kafka's client is not imported otherwise."""
    settings = current_settings()
    if not settings.kafka.bootstrap_servers:
        return []
    from kafka import KafkaConsumer

    from consumers.broker_checks import examine_broker
    from consumers.exposure_topic import examine_exposure_topic
    from consumers.kafka_settings import client_settings

    found = examine_broker(client_settings(settings, KafkaConsumer), settings.events.topic, settings.home)
    return [*found, examine_exposure_topic(settings)] if found[0].ok else found


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that is there."""
    absolute = path.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())


def _line(one: Finding) -> tuple[str, str, str]:
    return one.check, "ok" if one.ok else "FAILED", one.detail
