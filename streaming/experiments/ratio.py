"""Are the users spread over the arms as the shares say? Counts enter, evidence against it leaves.

A sequential test of multinomial counts (Lindon & Malek 2022, "Anytime-valid inference for multinomial
count data"): the Bayes factor of a Dirichlet prior around the shares against the shares themselves.
It is an e-process: without a mismatch it ever reaches 1/α at most with chance α. Exact, not asymptotic.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, lgamma, log

ALPHA = 0.001  # a mismatch withholds verdicts, so it must be sure
CONCENTRATION = 100.0  # of the prior: tuned for shares that are wrong by a few points


def ratio_evidence(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Log Bayes factor that the counts of one phase do not come from these shares.

    log B(k·share + n) − log B(k·share) − Σ n log share, with B the multivariate beta function.

    Args:
        counts: users by arm.
        shares: their expected shares, in any unit; an arm of share 0 must have no users, else inf.

    >>> round(ratio_evidence([5100, 4900], [0.5, 0.5]), 4), round(ratio_evidence([5300, 4700], [1, 1]), 3)
    (-0.3295, 15.524)
    """
    whole = sum(shares)
    if any(n > 0 and not share > 0.0 for n, share in zip(counts, shares, strict=True)):
        return inf
    live = [(n, share / whole) for n, share in zip(counts, shares, strict=True) if share > 0.0]
    users = sum(n for n, _ in live)
    evidence = lgamma(CONCENTRATION) - lgamma(CONCENTRATION + users)
    for n, share in live:
        prior = CONCENTRATION * share
        evidence += lgamma(prior + n) - lgamma(prior) - n * log(share)
    return evidence


def mismatch(evidence: float) -> bool:
    """Whether the evidence of all phases together (their sum) shows a mismatch."""
    return evidence >= -log(ALPHA)
