from __future__ import annotations

import math
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from consumers.eventlog.files import FilesLog
from consumers.sessions import SessionWorker
from consumers.sessions_training import REPEATED, Training
from state.answers import Answers
from state.reader import Reader
from streaming.errors import InputFormatError, StoreFormatError
from streaming.learners.softmax import LEARNER
from tests.consumers.sequenced import follow, softmax
from tests.consumers.worked import RULES, append, lines


def train(worker: SessionWorker, number: int) -> float:
    sequences = worker.sequences
    known = sequences.counts.known
    return worker.training.train(sequences.examples, sequences.items.model, known, number, 1)


def test_bad_steps_change_nothing_are_counted_and_send_weights_back(tmp_path: Path) -> None:
    version = softmax(tmp_path, tmp_path / "e.jsonl")

    def look(worker: SessionWorker) -> None:
        training, counts = worker.training, worker.sequences.counts
        committed = [array.copy() for array in worker.sequences.arrays]
        assert math.isfinite(train(worker, 1_000))
        moved = np.asarray(training.params.out).copy()
        floats = worker.sequences.items.model.items.floats
        good = floats.copy()
        floats[:] = np.nan
        before = training.steps
        for k in range(REPEATED - 1):
            assert math.isnan(train(worker, 1_001 + k))
        assert (training.dropped, training.steps, counts.restored) == (REPEATED - 1, before + REPEATED - 1, 0)
        np.testing.assert_array_equal(np.asarray(training.params.out), moved)
        assert math.isnan(train(worker, 1_010))
        assert counts.restored == 1
        kept = [array for array in committed if array.shape == moved.shape]
        assert any(np.array_equal(np.asarray(training.params.out), array) for array in kept)
        for k in range(REPEATED):  # what was committed is of no use either
            train(worker, 1_011 + k)
        assert counts.restored == 2 and not np.any(np.asarray(training.params.out))
        floats[:] = good
        assert math.isfinite(train(worker, 1_020))

    follow(version, tmp_path / "e.jsonl", look=look)


def test_exploded_loss_is_dropped(tmp_path: Path) -> None:
    version = softmax(tmp_path, tmp_path / "e.jsonl")

    def look(worker: SessionWorker) -> None:
        moved = np.asarray(worker.training.params.out).copy()
        worker.sequences.items.model.items.floats[:] *= 1e4
        assert math.isnan(train(worker, 1_000)) and worker.training.dropped == 1
        np.testing.assert_array_equal(np.asarray(worker.training.params.out), moved)

    follow(version, tmp_path / "e.jsonl", look=look)


def test_worker_that_is_behind_leaves_out_training_and_no_refresh(tmp_path: Path) -> None:
    version, registry = softmax(tmp_path, tmp_path / "e.jsonl"), CollectorRegistry()
    found: list[SessionWorker] = []
    follow(version, tmp_path / "e.jsonl", behind_s=0.0, look=found.append, registry=registry)
    counts, training = found[0].sequences.counts, found[0].training
    assert counts.left_out > 0 and counts.due == training.steps + counts.left_out
    assert counts.refreshed == found[0].totals.refreshed >= 30
    page = generate_latest(registry).decode()
    assert f'freshet_sessions_steps_total{{outcome="left_out",version="mine"}} {counts.left_out}.0' in page
    assert 'freshet_sessions_trained_share{version="mine"} 0.0' in page
    assert 'freshet_sessions_gate_open{history="5",version="mine"} 0.0' in page


def test_items_without_a_row_are_masked(tmp_path: Path) -> None:
    version = softmax(tmp_path, tmp_path / "e.jsonl")
    unknown = [line.replace('"item": "i', '"item": "new-') for line in lines(100, seed=3)]
    path = append(tmp_path / "unknown.jsonl", unknown)

    def look(worker: SessionWorker) -> None:
        sequences = worker.sequences
        assert sequences.items.count >= 15 and sequences.items.present == 0
        assert sequences.users.held >= 20
        assert not np.any(sequences.users.rows.floats)
        assert worker.training.steps == 0

    follow(version, path, look=look)


def test_gate_compares_what_was_served_before_the_event(tmp_path: Path) -> None:
    version = softmax(tmp_path, tmp_path / "e.jsonl")

    def look(worker: SessionWorker) -> None:
        users, d = worker.sequences.users, worker.sequences.options.dimension
        kept = users.rows.floats[:, d : 2 * d].any(axis=1)
        assert kept.sum() >= 20  # the version knows no later event of them
        with closing(Reader(version)) as reader:
            for slot in np.flatnonzero(kept)[:5].tolist():
                name = users.ids.id_of(slot).decode()
                answered = reader.ask(partial(Answers.embedding, kind="user", name=name))
                np.testing.assert_allclose(users.rows.floats[slot, d : 2 * d], answered.vector, atol=1e-5)
        users.rows.floats[:, :d] = 0.0  # so both rankings are the same
        before = worker.sequences.gate.record.events.sum()
        more = append(tmp_path / "more.jsonl", lines(50, seed=1, start=400))
        with closing(FilesLog([str(more)], RULES)) as log:
            found = log.poll(50, 60.0)
            assert found is not None
            worker.take(found)
        record = worker.sequences.gate.record
        assert record.events.sum() - before >= 10
        assert record.sums[:, 0].sum() > 0.0
        np.testing.assert_array_equal(record.sums[:, 2:], 0.0)

    follow(version, tmp_path / "e.jsonl", compared=1.0, look=look)


def test_weights_are_carried_to_another_version(tmp_path: Path) -> None:
    version, weights = softmax(tmp_path, tmp_path / "e.jsonl"), tmp_path / "weights.npz"

    def look(worker: SessionWorker) -> None:
        worker.training.save(weights)
        saved = np.asarray(worker.training.params.out).copy()
        train(worker, 1_000)
        worker.training.begin_with(weights)
        np.testing.assert_array_equal(np.asarray(worker.training.params.out), saved)
        arrays = worker.training.arrays()
        with pytest.raises(StoreFormatError, match="another form"):
            Training(worker.sequences.options, LEARNER, 1, worker.sequences.counts, arrays[1:])
        weights.write_bytes(b"no weights")
        with pytest.raises(InputFormatError, match="no weights of a transformer"):
            worker.training.begin_with(weights)

    follow(version, tmp_path / "e.jsonl", look=look)
