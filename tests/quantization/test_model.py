import pytest
import torch
from torch import Tensor, nn

from bitroute.errors import CapabilityError, ConfigError
from bitroute.quantization.model import block_linears, materialize, memory_bytes, quantized_linears, share_weights, slice_model
from bitroute.quantization.quantize import quantize_model
from bitroute.quantization.scheme import BITS, GROUPS, Scheme


class Toy(nn.Module):
    """Embedding, two blocks, a head tied to the embedding: the shape of a language model."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(width, 2 * width), "down": nn.Linear(2 * width, width, bias=False)})
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 32, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.arange(8.0), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.embed(tokens)
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            x = x + layer["down"](torch.relu(layer["up"](self.norm(x))))
        y: Tensor = self.head(x)
        return y


@pytest.fixture
def toy() -> Toy:
    torch.manual_seed(0)
    return Toy()


WEIGHTS = 2 * 2 * 128 * 256  # in the block layers
REST = 4 * (32 * 128 + 2 * 256 + 2 * 128 + 8)  # bytes: embedding (once), biases, norm, table


def test_the_layers_of_the_blocks_are_found_and_the_head_is_not(toy: Toy) -> None:
    assert list(block_linears(toy)) == ["layers.0.up", "layers.0.down", "layers.1.up", "layers.1.down"]
    with pytest.raises(ConfigError, match="Embedding has no linear layers inside numbered blocks"):
        block_linears(toy.embed)


def test_a_shared_copy_takes_no_memory_and_keeps_ties(toy: Toy) -> None:
    copy = share_weights(toy)
    assert memory_bytes(toy, copy) == memory_bytes(toy) == 4 * WEIGHTS + REST
    assert copy.head.weight is copy.embed.weight
    assert not copy.training
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    tokens = torch.arange(32)
    assert torch.equal(copy(tokens), toy(tokens))


def test_casting_the_copy_leaves_the_original_alone(toy: Toy) -> None:
    share_weights(toy).to(torch.bfloat16)
    assert {parameter.dtype for parameter in toy.parameters()} == {torch.float32}
    assert toy.training
    assert all(parameter.requires_grad for parameter in toy.parameters())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", GROUPS)
def test_memory_is_the_formula(bits: int, group: int) -> None:
    scheme, toy = Scheme(bits, group, "rtn"), Toy(384)
    weights = 9 * WEIGHTS
    variant = quantize_model(toy, scheme)
    packed = weights * bits // 8 + weights // group * 4
    assert packed == weights * scheme.bits_per_weight(384) / 8
    assert memory_bytes(variant) == memory_bytes(toy) - 4 * weights + packed
    assert memory_bytes(toy, variant) == memory_bytes(toy) + packed


def test_with_a_group_a_row_it_depends_on_the_length_of_the_rows(toy: Toy) -> None:
    variant = quantize_model(toy, Scheme(3, None, "rtn"))
    rows = 2 * (256 + 128)  # up of 128 weights each, down of 256
    assert memory_bytes(variant) == WEIGHTS * 3 // 8 + 4 * rows + REST


def test_a_materialized_variant_owns_up_to_its_dense_weights(toy: Toy) -> None:
    variant = quantize_model(toy, Scheme(4, 64, "rtn"))
    small, tokens = memory_bytes(variant), torch.arange(32)
    before = variant(tokens)
    materialize(variant, torch.float32)
    assert memory_bytes(variant) == small + 4 * WEIGHTS
    assert torch.equal(variant(tokens), before)


def test_a_nested_pair_takes_the_memory_of_its_high_variant(toy: Toy) -> None:
    high = quantize_model(toy, Scheme(8, 64, "rtn", nested=4))
    plain = quantize_model(toy, Scheme(8, 64, "rtn"))
    low = slice_model(high, 4)
    assert memory_bytes(high, low) == memory_bytes(high) == memory_bytes(plain)
    assert memory_bytes(low) == memory_bytes(high) - WEIGHTS // 2
    tokens = torch.arange(32)
    assert torch.equal(high(tokens), plain(tokens))
    assert {layer.bits for layer in quantized_linears(low).values()} == {4}
    assert not torch.equal(low(tokens), high(tokens))
    with pytest.raises(CapabilityError):
        slice_model(plain, 4)
