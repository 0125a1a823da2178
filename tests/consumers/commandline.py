"""The command line with a home, as tests use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from consumers.cli import main


class Freshet:
    """Runs commands in this process; answers as text or JSON."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys

    def __call__(self, *words: str, code: int = 0) -> str:
        """What a command said, standard error too where it failed."""
        self._capsys.readouterr()  # what the test itself logged
        ended = main([*words, "--home", str(self.home)])
        said = self._capsys.readouterr()
        assert ended == code, said
        self.err = said.err
        return said.out if code == 0 else said.out + said.err

    def json(self, *words: str, code: int = 0) -> Any:
        """What a command printed with --json."""
        return json.loads(self(*words, "--json", code=code))
