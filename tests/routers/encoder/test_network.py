"""The encoder's network: its size."""

from __future__ import annotations

from bitroute.routers.encoder.network import EncoderNetwork, encoder_config


def test_the_default_network_is_within_its_size() -> None:
    network = EncoderNetwork(encoder_config(768), use_signals=True)
    assert 290_000 < sum(p.numel() for p in network.parameters()) <= 300_000
