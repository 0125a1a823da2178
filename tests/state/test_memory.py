"""What is particular to the store in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from state.memory import MemoryStore


def test_size_is_that_of_keys_and_values() -> None:
    store = MemoryStore()
    store.write([(b"ab", b"cde"), (b"f", b"")])
    assert store.sizes() == {"memory": 6}


def test_checkpoint_is_refused_with_what_to_use(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="RocksDB"):
        MemoryStore().checkpoint(tmp_path / "copy")
