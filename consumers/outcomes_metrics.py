"""A comparison enters; what `freshet outcomes` reports on its metrics page leaves."""

from __future__ import annotations

from math import nan

from prometheus_client import CollectorRegistry, Counter, Gauge

from streaming.experiments import Experiment, summary

BOUNDS = ("lift", "lower", "upper")


class OutcomeMetrics:
    """What `freshet outcomes` reports."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["experiment", "arm"]
        self.users = Gauge(
            "freshet_experiment_users", "Users who have entered, by arm.", labels, registry=registry
        )
        self.acted = Gauge(
            "freshet_experiment_guardrail_acted",
            "Whether a guardrail has taken the arm out of the route.",
            labels,
            registry=registry,
        )
        self.mismatch = Gauge(
            "freshet_experiment_sample_ratio_mismatch",
            "Whether users are spread otherwise than the shares say.",
            ["experiment"],
            registry=registry,
        )
        self.lift = Gauge(
            "freshet_experiment_lift",
            "Lift over the champion at the newest look kept, and the ends of its always-valid interval.",
            [*labels, "bound"],
            registry=registry,
        )
        self.records = Counter(
            "freshet_outcome_records",
            "Lines read, by log: exposures, events, or bad where a line is neither.",
            ["log"],
            registry=registry,
        )

    def show(self, name: str, experiment: Experiment) -> None:
        """Set the gauges of an experiment."""
        found = summary(experiment)
        for arm, figures in found["arms"].items():
            self.users.labels(name, arm).set(figures["users"])
        self.mismatch.labels(name).set(not found["sample_ratio"]["fits"])
        for arm, looks in found["looks"].items():
            for bound, value in zip(BOUNDS, looks[-1][1:] if looks else (), strict=False):
                self.lift.labels(name, arm, bound).set(nan if value is None else value)
        for arm, guardrail in experiment.guardrails.items():
            self.acted.labels(name, arm).set(guardrail.state == "acted")
