"""The whole method in one call."""

from __future__ import annotations

from bitroute.evaluation.results import Evaluation
from bitroute.experiment.experiment import Experiment
from bitroute.experiment.report import evaluate_policies, write_run_report
from bitroute.experiment.stages import train_routers


def run_method(run: Experiment) -> list[Evaluation]:
    """Every stage up to the report; those that are done are read. Returns what was compared, one entry a split."""
    train_routers(run)
    results = evaluate_policies(run)
    write_run_report(run, results)
    return results
