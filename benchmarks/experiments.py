"""How often experiments are wrong, and how soon they are right: thousands of them, looked at all the time.

    python -m benchmarks.experiments

Every run is looked at after every 100 users and ends at the first look that shows something, as somebody
does who watches a page. A sample with fixed horizon is that of a test that looks once, two-sided at 5 %,
with 80 % power.
"""

from __future__ import annotations

import time
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.verdict import Report, run_benchmark
from streaming.experiments import (
    Bandit,
    Design,
    Experiment,
    GuardrailBoundary,
    Policy,
    Sequence,
    bandit_shares,
    expected,
)
from streaming.experiments.experiment import LOOK
from streaming.experiments.lift import Comparison, Counts, compare
from streaming.experiments.plan import users
from streaming.experiments.ratio import mismatch, ratio_evidence

BASE = 0.05
SHARES = (0.5, 0.1)  # of the challenger
POLICIES: tuple[Policy, ...] = ("thompson", "ucb")
Array = NDArray[np.float64]


def conversions(
    rng: np.random.Generator, runs: int, total: float, rates: tuple[float, float], share: float
) -> Comparison:
    """Runs of an experiment, looked at after every 100 users: a comparison of shape (runs, looks)."""
    looks = int(total // LOOK)
    challenger = rng.binomial(LOOK, share, (runs, looks))
    entered = LOOK - challenger, challenger
    arms = []
    for n, rate in zip(entered, rates, strict=True):
        converted = rng.binomial(n, rate).cumsum(axis=1)[None].astype(float)
        arms.append(Counts(n.cumsum(axis=1)[None].astype(float), converted, converted, converted))
    return compare(*arms)


def drifting(
    rng: np.random.Generator, runs: int, total: float, steps: tuple[float, ...], rates: tuple[float, ...]
) -> Comparison:
    """A ramp, equal arms, and a base rate that drifts from step to step, for everybody."""
    looks = int(total // LOOK)
    step = np.arange(looks) * len(steps) // looks
    challenger = rng.binomial(LOOK, np.array(steps)[step], (runs, looks))
    arms = []
    for n in (LOOK - challenger, challenger):
        converted = rng.binomial(n, np.array(rates)[step])
        phases = [np.where(step == j, n, 0).cumsum(axis=1) for j in range(len(steps))]
        hits = [np.where(step == j, converted, 0).cumsum(axis=1) for j in range(len(steps))]
        total_hits = np.array(hits, np.float64)
        arms.append(Counts(np.array(phases, np.float64), total_hits, total_hits, total_hits))
    return compare(*arms)


def values(rng: np.random.Generator, runs: int, total: float, share: float) -> Comparison:
    """Equal arms whose users spend nothing, or a log-normal amount (5 % of them; skewed)."""
    looks = int(total // LOOK)
    spent = np.where(
        rng.random((runs, looks, LOOK)) < BASE, rng.lognormal(3.0, 0.8, (runs, looks, LOOK)), 0.0
    )
    challenger = rng.random((runs, looks, LOOK)) < share
    arms = []
    for inside in (~challenger, challenger):
        amounts = np.where(inside, spent, 0.0)
        columns = inside.sum(-1), (amounts > 0).sum(-1), amounts.sum(-1), (amounts**2).sum(-1)
        arms.append(Counts(*(column.cumsum(axis=1)[None].astype(float) for column in columns)))
    return compare(*arms)


def shown(found: Comparison, sequence: Sequence) -> float:
    """Part of the runs in which zero ever lay outside the confidence sequence."""
    return float((np.abs(found.z()) >= sequence.critical(found.effective)).any(axis=1).mean())


def equal_arms(report: Report, rng: np.random.Generator, runs: int, scale: float) -> None:
    """False alarms without a difference, beside those of a test that was not made for looking."""
    design = Design(mean=BASE, lift=0.1)
    sequence = Sequence.of(design)
    for share in SHARES:
        total = scale * 2.0 * users(design.fixed_sample(0.1), share, 1.0 - share)
        found = conversions(rng, runs, total, (BASE, BASE), share)
        what = f"equal arms, {share:.0%} in the challenger, {runs:,} runs: false alarms"
        report.at_most(what, shown(found, sequence), 0.05, f"a look after every 100 of {total:,.0f} users")
        peeked = float((np.abs(found.z()) >= 1.96).any(axis=1).mean())
        report.beside("the same, looked at with a test for one look (z = 1.96)", peeked)
    total = scale * 2.0 * users(design.fixed_sample(0.1), 0.5, 0.5)
    found = drifting(rng, runs, total, (0.05, 0.2, 0.5), (0.08, 0.05, 0.03))
    what = f"equal arms, a ramp while rates fall from 8 to 3 %, {runs:,} runs: false alarms"
    report.at_most(what, shown(found, sequence), 0.05)
    spend = Design(metric="value", mean=1.38, deviation=8.4, lift=0.2)
    total = scale * 2.0 * users(spend.fixed_sample(0.2), 0.5, 0.5)
    few = max(1, runs // 4)
    found = values(rng, few, total, 0.5)
    report.at_most(
        f"equal arms, skewed values, {few:,} runs: false alarms", shown(found, Sequence.of(spend)), 0.05
    )


def true_lift(report: Report, rng: np.random.Generator, runs: int) -> None:
    """A lift of 10 % on 5 %, found within twice the sample of a fixed horizon."""
    design = Design(mean=BASE, lift=0.1)
    sequence = Sequence.of(design)
    for share in SHARES:
        fixed = users(design.fixed_sample(0.1), share, 1.0 - share)
        found = conversions(rng, runs, 2.0 * fixed, (BASE, 1.1 * BASE), share)
        better = found.z() >= sequence.critical(found.effective)
        first = np.where(better.any(axis=1), (better.argmax(axis=1) + 1.0) * LOOK, np.inf)
        half = float(np.quantile(first, 0.5, method="higher"))
        planned = expected(design, {"champion": 1.0 - share, "challenger": share})["challenger"]["half"]
        what = f"a lift of 10 % on 5 %, {share:.0%} in the challenger, {runs} runs: found"
        note = f"within 2 × {fixed:,.0f} users; half found at {half:,.0f}, planned {planned or 0:,.0f}"
        report.at_least(what, float(better.any(axis=1).mean()), 0.8, note)


def guardrails(report: Report, rng: np.random.Generator, runs: int) -> None:
    """Equal arms must stay; a drop of 20 % must go within 1.5 times the sample of a fixed horizon."""
    for bound in (0.0, -0.03):
        design = Design(mean=BASE, guardrail=bound)
        boundary = GuardrailBoundary.of(design)
        assert boundary is not None
        for share in SHARES:
            fixed = users(design.fixed_sample(-0.2), share, 1.0 - share)
            where = f"guardrail {bound:.0%}, {share:.0%} in the challenger, {runs:,} runs"
            stay = conversions(rng, runs, 3.0 * fixed, (BASE, BASE), share)
            false = float(boundary.crossed(stay).any(axis=1).mean())
            report.at_most(f"{where}: equal arms taken out", false, 0.01, f"within {3 * fixed:,.0f} users")
            go = conversions(rng, runs, 1.5 * fixed, (BASE, 0.8 * BASE), share)
            acted = float(boundary.crossed(go).any(axis=1).mean())
            report.at_least(
                f"{where}: a drop of 20 % taken out", acted, 0.8, f"within {1.5 * fixed:,.0f} users"
            )
            half = boundary.crossed(conversions(rng, runs, 1.5 * fixed, (BASE, 0.5 * BASE), share))
            at = np.where(half.any(axis=1), (half.argmax(axis=1) + 1.0) * LOOK, np.inf)
            report.beside(f"{where}: users until half of the drops of 50 % are out", float(np.median(at)))


def bandit(report: Report, rng: np.random.Generator, runs: int, decisions: int = 20) -> None:
    """Conversions lost against always the best arm, and the least share of any arm."""
    rates, floor, batch = np.array([0.05, 0.06, 0.08]), 0.05, 1000
    equal = decisions * batch * float((rates.max() - rates).mean())
    for policy in POLICIES:
        regrets, least = [], 1.0
        for run in range(runs):
            counts = {arm: (0, 0) for arm in "abc"}
            regret = 0.0
            for decision in range(decisions):
                shares = bandit_shares(counts, floor, run * decisions + decision, policy, batch)
                least = min(least, *shares.values())
                part = np.array(list(shares.values()))
                sent = rng.multinomial(batch, part / part.sum())
                converted = rng.binomial(sent, rates)
                regret += float(sent @ (rates.max() - rates))
                counts = {
                    arm: (counts[arm][0] + int(n), counts[arm][1] + int(c))
                    for arm, n, c in zip(counts, sent, converted, strict=True)
                }
            regrets.append(regret)
        note = (
            f"{mean(regrets):.0f} conversions lost of {decisions * batch:,} users, equal shares {equal:.0f}"
        )
        what = f"bandit ({policy}), 5, 6 and 8 %, {runs} runs: regret / regret of equal shares"
        report.at_most(what, mean(regrets) / equal, 1.0, note)
        report.at_least(f"bandit ({policy}): least share of any arm (floor 5 %)", least, floor)


def bandit_alarms(report: Report, rng: np.random.Generator, runs: int, decisions: int = 60) -> None:
    """False alarms of equal arms whose shares follow outcomes: not proven, so measured."""
    for policy in POLICIES:
        bandit, alarms = Bandit(policy, 0.05), 0
        for _ in range(runs):
            experiment = Experiment(Design(mean=BASE), {"champion": 0.5, "challenger": 0.5})
            for _ in range(decisions):
                share = list(experiment.phases[-1].shares.values())[1]
                arms = (rng.random(bandit.users) < share).astype(np.int64)
                phase = np.full(bandit.users, len(experiment.phases) - 1)
                experiment.add(arms, (rng.random(bandit.users) < BASE).astype(np.float64), phase)
                shares = bandit.shares(experiment)
                if shares is not None:
                    experiment.begin_phase(shares, len(experiment.phases))
            alarms += bool(experiment.decisions)
        what = (
            f"equal arms, shares by {policy}, {runs} runs of {decisions * bandit.users:,} users: false alarms"
        )
        report.beside(what, alarms / runs, "nothing is promised here")


def sample_ratio(report: Report, rng: np.random.Generator, runs: int, looks: int = 300) -> None:
    """Alarms of the check of shares, with and without a mismatch."""
    for share, target in ((0.5, 0.005), (0.47, None)):
        entered = rng.binomial(LOOK, share, (runs, looks)).cumsum(axis=1)
        alarms = [
            any(
                mismatch(ratio_evidence([LOOK * (k + 1) - int(n), int(n)], [0.5, 0.5]))
                for k, n in enumerate(one)
            )
            for one in entered
        ]
        what = f"sample ratio, {share:.0%} instead of 50 %, {runs} runs of {looks * LOOK:,} users: alarms"
        report.at_most(what, mean(alarms), target)


def speed(report: Report, rng: np.random.Generator, count: int) -> None:
    """Users a second that enter an experiment with guardrail, looks included."""
    experiment = Experiment(Design(guardrail=-0.03), {"champion": 0.9, "challenger": 0.1})
    arms = (rng.random(count) < 0.1).astype(np.int64)
    outcomes = (rng.random(count) < BASE).astype(np.float64)
    begun = time.process_time()
    experiment.add(arms, outcomes, np.zeros(count, np.int64))
    rate = count / (time.process_time() - begun)
    report.beside("users entering, a second of one core", rate, "with a look after every 100")


def measure(quick: bool) -> Report:
    """All of it, from one seed."""
    rng = np.random.default_rng(20_240_501)
    settings: dict[str, Any] = {"seed": 20_240_501, "look_users": LOOK, "base_rate": BASE}
    report = Report({"settings": settings})
    equal_arms(report, rng, 40 if quick else 1000, 0.1 if quick else 1.0)
    true_lift(report, rng, 5 if quick else 500)
    guardrails(report, rng, 20 if quick else 4000)  # 500 cannot tell 0.7 % from 1.2 %
    bandit(report, rng, 2 if quick else 60, 3 if quick else 20)
    bandit_alarms(report, rng, 2 if quick else 400, 3 if quick else 60)
    sample_ratio(report, rng, 5 if quick else 200, 20 if quick else 300)
    speed(report, rng, 2000 if quick else 200_000)
    return report


def main() -> int:
    """Measure, print, record."""
    return run_benchmark("experiments", __doc__, measure)


if __name__ == "__main__":
    raise SystemExit(main())
