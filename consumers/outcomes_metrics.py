"""A comparison enters; what `freshet outcomes` reports on its metrics page leaves."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from streaming.experiments import Experiment, summary


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
        self.records = Counter(
            "freshet_outcome_records",
            "Lines read, by log: exposures, events, or bad where a line is neither.",
            ["log"],
            registry=registry,
        )

    def show(self, name: str, experiment: Experiment) -> None:
        """Set the gauges of an experiment."""
        for arm, figures in summary(experiment)["arms"].items():
            self.users.labels(name, arm).set(figures["users"])
        for arm, guardrail in experiment.guardrails.items():
            self.acted.labels(name, arm).set(guardrail.state == "acted")
