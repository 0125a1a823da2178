"""What all tests share: real data where it is at hand, and settings that no outer environment changes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from state.live import SHARED_MEMORY

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("FRESHET_DATA", ROOT.parent / "shared" / "datasets"))

# Freshet reads settings from FRESHET_…; those of the person who runs the tests must not reach them.
_OF_TESTS = ("FRESHET_DATA", "FRESHET_TEST_KAFKA", "FRESHET_CRASH_COUNT")
for name in [name for name in os.environ if name.startswith("FRESHET_") and name not in _OF_TESTS]:
    del os.environ[name]

# A first call compiles kernels and a test machine may be shared, so a deadline would only fail at random.
settings.register_profile("freshet", deadline=None, print_blob=True)
settings.load_profile("freshet")


# Real brokers, processes, kills by the dozen, scripts that measure, and the learner that takes longest to
# compile: `make test-fast` leaves them out.
_SLOW = (
    "tests/kafka/",
    "tests/crash/",
    "tests/benchmarks/",
    "tests/streaming/session/",
    "tests/test_dashboards.py",
    "tests/test_prometheus.py",
    "tests/state/test_live_witness.py",
    "tests/consumers/test_alarms.py",
    "tests/consumers/test_ab.py",
    "tests/consumers/test_backtest",
    "tests/consumers/test_companion.py",
    "tests/consumers/test_experiment_command.py",
    "tests/consumers/test_forget",
    "tests/consumers/test_outcomes",
    "tests/consumers/test_page",
    "tests/consumers/test_query_command.py",
    "tests/consumers/test_rebuild.py",
    "tests/consumers/test_record_batches.py",
    "tests/consumers/test_route_command.py",
    "tests/consumers/test_segments.py",
    "tests/consumers/test_server_",
    "tests/consumers/test_sessions",
    "tests/consumers/test_truth.py",
    "tests/consumers/test_version",
    "tests/consumers/test_without_kafka.py",
    "tests/consumers/test_work_command.py",
    "tests/streaming/learners/test_blend.py",
)


# Seconds of one test: it may wait for processes, compile kernels and fetch Kafka, on a machine that stalls.
_PATIENT_S = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes long by where it lies and what it is about."""
    for item in items:
        if item.nodeid.startswith(_SLOW) or "[blend]" in item.nodeid or "-blend]" in item.nodeid:
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_PATIENT_S))


@pytest.fixture(scope="session", autouse=True)
def own_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let what killed processes leave lie among pytest's own files; what is in memory goes at the end."""
    place = tmp_path_factory.mktemp("t")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(place))
        patch.setattr(tempfile, "tempdir", str(place))
        yield
    for named in SHARED_MEMORY.glob(f"freshet-{os.getuid()}/*/of"):
        if Path(named.read_text()).is_relative_to(tmp_path_factory.getbasetemp()):
            shutil.rmtree(named.parent)


@pytest.fixture(scope="session")
def data() -> Path:
    """Directory of the public datasets: FRESHET_DATA, else `../shared/datasets` beside the repository.

    A test that asks for it is skipped where the directory is absent.
    """
    if not DATA.is_dir():
        pytest.skip(f"no datasets at {DATA}; set FRESHET_DATA to the directory that holds them")
    return DATA
