"""Adapters on a network: nothing changes before they learn, gradients are autograd's, a merged layer computes the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bitroute.nn.decoder import Decoder, packed, sequence_logits
from bitroute.nn.lora import FrozenNorm, LoraLinear, LoraShape, attach, merged
from support.networks import LLAMA, TINY, network

SHAPE = LoraShape(rank=3, alpha=6.0)
CONFIGS = [TINY, replace(LLAMA, attention_bias=True)]
TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10, 3, 2]])


@pytest.mark.parametrize("config", CONFIGS, ids=["qwen3", "llama"])
def test_an_untrained_adapter_changes_nothing_and_a_trained_one_computes_as_its_merged_weights(config) -> None:
    model = network(0, config)
    before, state = sequence_logits(model, TOKENS), dict(model.state_dict())
    matrices = attach(model, SHAPE, seed=1)
    torch.testing.assert_close(sequence_logits(model, TOKENS), before)
    assert len(matrices) == 2 * 7 * config.num_hidden_layers
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name.replace(".weight", "") for name in matrices
    }
    with torch.no_grad():
        for matrix in matrices.values():
            matrix.add_(torch.randn(matrix.shape, generator=torch.Generator().manual_seed(2)) * 0.2)
    plain = Decoder(config)
    plain.load_state_dict({name: merged(name, tensor, matrices, SHAPE) for name, tensor in state.items()})
    changed = sequence_logits(model, TOKENS)
    torch.testing.assert_close(changed, sequence_logits(plain, TOKENS), atol=1e-4, rtol=1e-4)
    assert (changed - before).abs().max() > 0.1


def test_the_product_and_the_norm_have_the_gradients_of_autograd() -> None:
    torch.manual_seed(0)
    layer = LoraLinear(nn.Linear(5, 4).double(), SHAPE, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        layer.lora_B.normal_()
    norm = nn.RMSNorm(5, eps=1e-5).double()
    with torch.no_grad():
        norm.weight.normal_()
    x = torch.randn(3, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    first, second = (p.detach().clone().requires_grad_() for p in (layer.lora_A, layer.lora_B))
    expected = x @ layer.weight.T + layer.bias + layer.scale * (x @ first.T) @ second.T
    torch.testing.assert_close(layer(x), expected)
    layer(x).square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(layer.lora_A.grad, first.grad)
    torch.testing.assert_close(layer.lora_B.grad, second.grad)
    frozen, x = FrozenNorm(norm.float()), x.detach().float()
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    torch.testing.assert_close(frozen(ours), norm(theirs))
    frozen(ours).sin().sum().backward()
    norm(theirs).sin().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_packed_sequences_see_themselves_alone() -> None:
    model = network(3, LLAMA)
    lengths, tokens = [3, 5], TOKENS[0]
    positions = torch.cat([torch.arange(n) for n in lengths])
    hidden = model(tokens, positions, packed(lengths, model.model.embed_tokens.weight))
    alone = [sequence_logits(model, part.unsqueeze(0))[0] for part in tokens.split(lengths)]
    torch.testing.assert_close(model.logits(hidden), torch.cat(alone), atol=1e-4, rtol=1e-4)
