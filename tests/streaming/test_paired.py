"""Paired differences against figures worked out event by event."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from streaming.evaluation import EVALUATED, NEW_ITEM, NEW_USER, THERE
from streaming.paired import differences, paired


def outcomes(n: int, seed: int, better: float) -> NDArray[np.void]:
    """Evaluated events of two sources; ranks are shared by all seeds, but for a part that gets better."""
    common, own = np.random.default_rng(1), np.random.default_rng(seed)
    events = np.zeros(n, EVALUATED)
    events["source"], events["offset"] = np.arange(n) % 2, np.arange(n) // 2 * 7
    events["bin"] = np.minimum(common.geometric(0.04, n), 40)
    events["bin"][own.random(n) < better] = 0
    events["flags"] = THERE + NEW_USER * (common.random(n) < 0.3) + NEW_ITEM * (common.random(n) < 0.2)
    return events


def test_events_are_paired_by_source_and_offset_whatever_their_order() -> None:
    a, b = outcomes(200, 2, 0.1), outcomes(200, 3, 0.2)
    mine, theirs = paired(a[50:][::-1], np.roll(b[:150], 13))
    assert len(mine) == 100
    assert (mine["offset"] == theirs["offset"]).all() and (mine["source"] == theirs["source"]).all()
    rank = {(e["source"], e["offset"]): e["bin"] for e in b}
    assert [rank[e["source"], e["offset"]] for e in mine] == theirs["bin"].tolist()


def test_difference_and_interval_equal_those_worked_out_event_by_event() -> None:
    a, b = outcomes(500, 2, 0.0), outcomes(500, 3, 0.2)
    found = differences(a, b)
    new_user, new_item = a["flags"] & NEW_USER > 0, a["flags"] & NEW_ITEM > 0
    masks = {
        "overall": a["flags"] > 0,
        "new_user": new_user,
        "returning_user": ~new_user,
        "new_item": new_item,
    }
    for segment, mask in masks.items():
        d = [
            float(y / 2 < 10) - float(x / 2 < 10) for x, y in zip(a["bin"][mask], b["bin"][mask], strict=True)
        ]
        mean = sum(d) / len(d)
        sd = math.sqrt(sum((x - mean) ** 2 for x in d) / (len(d) - 1))
        one = found[segment]["hr@10"]
        assert one.events == len(d) and one.difference == pytest.approx(mean) == pytest.approx(one.b - one.a)
        assert one.high - one.difference == pytest.approx(1.96 * sd / math.sqrt(len(d)))
        assert one.difference - one.low == pytest.approx(one.high - one.difference)
    ndcg = [0.0 if x / 2 >= 20 else 1 / math.log2(x / 2 + 2) for x in b["bin"].tolist()]
    assert found["overall"]["ndcg@20"].b == pytest.approx(sum(ndcg) / 500)


def test_pairs_give_a_far_narrower_interval_than_two_separate_rates() -> None:
    a, b = outcomes(2000, 2, 0.0), outcomes(2000, 3, 0.05)
    one = differences(a, b)["overall"]["hr@10"]
    assert one.low > 0.0
    separate = 1.96 * math.sqrt((one.a * (1 - one.a) + one.b * (1 - one.b)) / 2000)
    assert (one.high - one.low) / 2 < 0.5 * separate


def test_equal_versions_do_not_differ_and_no_events_give_no_figure() -> None:
    a = outcomes(300, 2, 0.1)
    assert differences(a, a)["overall"]["mrr@10"][3:] == (0.0, 0.0, 0.0)
    assert math.isnan(differences(a[:0], a[:0])["overall"]["hr@10"].difference)
    assert differences(a[:1], a[:1])["overall"]["hr@10"].high == math.inf
