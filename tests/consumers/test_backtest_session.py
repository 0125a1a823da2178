from __future__ import annotations

from pathlib import Path

import pytest

from consumers.candidates import candidate
from streaming.errors import SettingError, UsageError
from tests.consumers.test_backtest import random_events, run, write_events

TEXT = "softmax+session:dimension=8,negatives=10," + ",".join(
    f"session.{name}"
    for name in (
        "length=5", "heads=2", "hidden=12", "dropout=0", "residual=0.5", "negatives=16", "batch=16",
        "replayed=8", "remembered=256", "every=8", "learning_rate=0.02",
    )
)  # fmt: skip


def test_transformer_in_lockstep_gives_the_same_figures_whatever_the_batch(tmp_path: Path) -> None:
    path = write_events(tmp_path / "e.jsonl", random_events(400))
    small, large = (run(path, TEXT, batch_events=n).best for n in (33, 400))
    assert small.session is not None and small.session == large.session
    assert small.overall == large.overall
    assert small.session["steps"] > 40 and small.session["dropped"] == 0
    beneath = run(path, "softmax:dimension=8,negatives=10").best
    assert small.session["whole"]["plain"] == beneath.overall
    assert small.session["whole"]["gated"] == small.overall


def test_session_options_come_from_the_learner_and_from_their_own_names() -> None:
    one = candidate("softmax+session:dimension=8,temperature=0.5,session.layers=2")
    assert one.options == {"dimension": "8", "temperature": "0.5"}
    options = one.session_options()
    assert (options.dimension, options.temperature, options.layers) == (8, 0.5, 2)


def test_wrong_session_learner_is_refused() -> None:
    with pytest.raises(UsageError, match="goes with softmax"):
        candidate("popularity+session")
    with pytest.raises(SettingError, match='Did you mean "layers"'):
        candidate("softmax+session:session.layer=2")
