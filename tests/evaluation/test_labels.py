import numpy as np
import pytest

from bitroute.episode import Sensitivity, first_word
from bitroute.evaluation.labels import concentration, summarise_labels


def label(kl: float, action: str = "go to desk 1", agrees: bool = True) -> Sensitivity:
    return Sensitivity(kl, kl, kl, kl, action=action, agrees=agrees)


def test_summary_by_hand() -> None:
    labels = [label(0.0)] * 6 + [label(1.0, "take mug 1"), label(1.0, "take mug 2", agrees=False)]
    labels += [label(3.0, "open fridge 1", agrees=False), label(5.0, "open fridge 1", agrees=False)]
    summary = summarise_labels(labels)
    assert (summary.steps, summary.median, summary.mean, summary.disagree) == (10, 0.0, 1.0, 0.3)
    assert summary.top_mass == pytest.approx(0.8)  # two steps of ten hold 8 of 10
    assert [(v.verb, v.steps, v.mass, v.disagree) for v in summary.verbs] == [
        ("open", 2, 0.8, 1.0),
        ("take", 2, 0.2, 0.5),
        ("go", 6, 0.0, 0.0),
    ]
    assert (summary.verbs[0].median, summary.verbs[0].mean, summary.verbs[0].p90) == (4.0, 4.0, pytest.approx(4.8))


def test_no_divergence_at_all() -> None:
    summary = summarise_labels([label(0.0)] * 5)
    assert (summary.top_mass, summary.verbs[0].mass) == (0.0, 0.0)


def test_no_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match="no sensitivity labels"):
        summarise_labels([])


def test_concentration_runs_from_zero_to_one() -> None:
    assert concentration(np.array([1.0, 6.0, 3.0])).tolist() == [0.0, 0.6, 0.9, 1.0]


def test_verb_is_the_first_word() -> None:
    assert [first_word(a) for a in ("go to desk 1", "look", "  take x", "", " ")] == [
        "go",
        "look",
        "take",
        "(empty)",
        "(empty)",
    ]
