"""The encoder's network: its size, and how features reach its score."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bitroute.episode import Signals, View
from bitroute.routers.encoder.network import SIGNAL_FEATURES, EncoderNetwork, encoder_config, signal_features
from bitroute.routers.features import FEATURES, REVEALED


def test_the_default_network_is_within_its_size() -> None:
    network = EncoderNetwork(encoder_config(768), use_signals=True, features=FEATURES)
    assert 290_000 < sum(p.numel() for p in network.parameters()) <= 300_000


def test_features_are_standardised_cut_off_and_weighed() -> None:
    network = EncoderNetwork(encoder_config(64), use_signals=True, features=("log step", "high steps"))
    rows = np.zeros((4, len(FEATURES)))
    rows[:, FEATURES.index("log step")] = (1.0, 3.0, 1.0, 3.0)  # mean 2, deviation 1; "high steps" never changes
    network.standardise(np.zeros((4, SIGNAL_FEATURES)), rows)
    network.begin_with([2.0, 7.0, *[0.0] * SIGNAL_FEATURES], -1.0)
    hidden, signals = torch.zeros(3, 96), torch.zeros(3, SIGNAL_FEATURES)
    told = torch.zeros(3, len(FEATURES))
    told[:, FEATURES.index("log step")] = torch.tensor([2.0, 3.0, 100.0])
    with torch.no_grad():
        scores = network.score(hidden, signals, told)
    assert (scores - scores[0]).tolist() == pytest.approx([0.0, 2.0, 10.0], abs=1e-5)
    assert float(scores[0]) == pytest.approx(-1.0, abs=0.3)  # the bias, and what a new head says


def test_without_signals_no_feature_reads_what_generating_revealed() -> None:
    network = EncoderNetwork(encoder_config(64), use_signals=False, features=FEATURES)
    assert set(FEATURES) - set(network.features) == REVEALED
    with pytest.raises(ValueError, match="colour"):
        EncoderNetwork(encoder_config(64), use_signals=True, features=("colour",))


def test_a_probe_tells_its_doubt_on_two_scales_its_least_likely_token_and_its_length() -> None:
    probe = Signals(logprobs=(-0.1, -5.0), constrained=(-0.1, -5.0), entropy=(0.2, 0.3), margin=(0.9, 0.25))
    told = signal_features(View(("message",), probe=probe), "high")
    assert told[8:] == pytest.approx([1.0, 0.5, 0.75, -4.0, math.log(0.751), -4.0, 0.2])
    assert signal_features(View(("message",)), "high")[8:] == [0.0] * 7
