import pytest
import torch
from torch import Tensor

from bitroute.errors import ConfigError, DataError
from bitroute.nn.decoder import Decoder, DecoderConfig, sequence_logits
from bitroute.quantization.gptq import Elimination, Hessian, gptq
from bitroute.quantization.grid import decode, encode, fit_clipped_grid, fit_grid
from bitroute.quantization.model import quantized_linears
from bitroute.quantization.quantize import quantize_model
from bitroute.quantization.scheme import Scheme
from bitroute.quantization.stages import CalibrationBatches

CONFIG = DecoderConfig(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=32,
)
NAMES = [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]


def tokens(seed: int, rows: int = 8) -> Tensor:
    """Few distinct tokens, so that activations are correlated."""
    return torch.randint(0, 12, (rows, 32), generator=torch.Generator().manual_seed(seed))


def calibration() -> CalibrationBatches[Decoder]:
    return CalibrationBatches([tokens(1), tokens(2)], sequence_logits, "twelve random tokens")


@pytest.fixture
def model() -> Decoder:
    torch.manual_seed(0)
    return Decoder(CONFIG).eval()


def test_every_block_layer_is_rounded_and_nothing_else(model: Decoder) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    variant = quantize_model(model, Scheme(3, 32, "rtn"))
    assert set(quantized_linears(variant)) == {f"model.layers.{i}.{name}" for i in range(2) for name in NAMES}
    for name, layer in quantized_linears(variant).items():
        weight = before[f"{name}.weight"]
        grid = fit_grid(weight, 3, 32)
        assert torch.equal(layer.dequantize(), decode(encode(weight, grid), grid))
    assert variant.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_gptq_calibrates_each_layer_on_what_quantized_layers_feed_it(model: Decoder) -> None:
    """Layer by layer by hand: the variant's own inputs to a layer give the Hessian that its codes were chosen with."""
    variant = quantize_model(model, Scheme(2, 32, "gptq"), calibration())
    for name in ("model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.o_proj", "model.layers.1.mlp.down_proj"):
        hessian = Hessian(model.get_submodule(name).weight.shape[1], torch.device("cpu"))
        hook = variant.get_submodule(name).register_forward_pre_hook(lambda _, args, hessian=hessian: hessian.add(args[0]))
        with torch.no_grad():
            for batch in calibration().batches:
                sequence_logits(variant, batch)
        hook.remove()
        weight = model.get_submodule(name).weight
        solved = Elimination.of(hessian.matrix)
        expected = gptq(weight, fit_clipped_grid(weight, 2, 32, solved.diagonal), solved)
        assert torch.equal(quantized_linears(variant)[name].codes, expected)


def test_gptq_keeps_the_output_closer_than_rounding_to_nearest(model: Decoder) -> None:
    held_out = tokens(3)
    with torch.no_grad():
        reference = sequence_logits(model, held_out)
        errors = {
            method: float((sequence_logits(quantize_model(model, scheme, calibration()), held_out) - reference).square().mean())
            for method, scheme in {m: Scheme(3, 32, m) for m in ("rtn", "gptq")}.items()
        }
    assert errors["gptq"] < 0.35 * errors["rtn"]


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_a_mean_width_gives_each_layer_one_of_its_neighbours_within_the_budget(model: Decoder, method: str) -> None:
    scheme = Scheme.parse(f"w2.5g32-{method}")
    variant, again = (quantize_model(model, scheme, calibration()) for _ in range(2))
    layers = quantized_linears(variant)
    assert {layer.bits for layer in layers.values()} == {2, 3}
    assert {n: layer.bits for n, layer in layers.items()} == {n: layer.bits for n, layer in quantized_linears(again).items()}
    weights = {name: layer.in_features * layer.out_features for name, layer in layers.items()}
    mean = sum(layer.bits * weights[name] for name, layer in layers.items()) / sum(weights.values())
    assert 2.5 - max(weights.values()) / sum(weights.values()) < mean <= 2.5
    held_out = tokens(3)
    with torch.no_grad():
        reference = sequence_logits(model, held_out)
        errors = [
            float(
                (sequence_logits(quantize_model(model, Scheme.parse(s), calibration()), held_out) - reference).square().mean()
            )
            for s in (f"w2g32-{method}", f"w2.5g32-{method}", f"w3g32-{method}")
        ]
    assert errors == sorted(errors, reverse=True)
    with pytest.raises(ConfigError, match=f"w2.5g32-{method}: .* needs calibration batches"):
        quantize_model(model, scheme)


def test_it_is_deterministic(model: Decoder) -> None:
    first, second = (quantize_model(model, Scheme(4, 64, "gptq"), calibration()).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_model_that_cannot_be_quantized_so_is_refused_before_any_work(model: Decoder) -> None:
    with pytest.raises(ConfigError, match="w4g64-gptq: GPTQ needs calibration batches"):
        quantize_model(model, Scheme(4, 64, "gptq"))
    with pytest.raises(
        ConfigError, match=r"layers.0.self_attn.q_proj: 64 inputs do not divide into groups of 128 \(w4g128-rtn\)"
    ):
        quantize_model(model, Scheme(4, 128, "rtn"))


def test_broken_weights_activations_and_calibrations_are_named(model: Decoder) -> None:
    silent = CalibrationBatches[Decoder](
        [tokens(1)], lambda m, batch: m.model.layers[0].mlp(m.model.embed_tokens(batch)), "half a model"
    )
    with pytest.raises(DataError, match=r"self_attn.k_proj: calibration \(half a model\) never runs this layer"):
        quantize_model(model, Scheme(4, 64, "gptq"), silent)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")  # after the blocks: harmless
        quantize_model(model, Scheme(4, 64, "gptq"), calibration())
        model.model.layers[1].input_layernorm.weight[0] = float("nan")
        with pytest.raises(DataError, match=r"model.layers.1.self_attn.\w_proj: calibration activations are not finite"):
            quantize_model(model, Scheme(4, 64, "gptq"), calibration())
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
        with pytest.raises(DataError, match=r"model.layers.0.mlp.up_proj: a weight is not finite"):
            quantize_model(model, Scheme(4, 64, "rtn"))


def test_no_hook_stays_behind(model: Decoder) -> None:
    variant = quantize_model(model, Scheme(4, 64, "gptq"), calibration())
    assert not any(module._forward_pre_hooks for m in (model, variant) for module in m.modules())
