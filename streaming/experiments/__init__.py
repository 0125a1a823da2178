"""Experiments: outcomes of users by arm enter; lift with always-valid intervals, guardrails, shares leave.

Read `plan` (what is expected), `lift` (the comparison), `confidence` and `guardrail` (the boundaries),
then `experiment` (the state) and `verdict` (what is shown).
"""

from streaming.experiments.bandit import Bandit, Policy, bandit_shares
from streaming.experiments.experiment import Decision, Experiment
from streaming.experiments.guardrail import Guardrail, GuardrailBoundary
from streaming.experiments.plan import Design, Sequence, expected
from streaming.experiments.ramp import Ramp, with_challengers, without
from streaming.experiments.verdict import summary, winner

__all__ = [
    "Bandit",
    "Decision",
    "Design",
    "Experiment",
    "Guardrail",
    "GuardrailBoundary",
    "Policy",
    "Ramp",
    "Sequence",
    "bandit_shares",
    "expected",
    "summary",
    "winner",
    "with_challengers",
    "without",
]
