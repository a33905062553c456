"""The commands that make a model's low-bit variants, and that measure what they cost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from bitroute.cli.options import Device, Dtype, Model, SuiteName, examples
from bitroute.envs.models import find_model, model_name
from bitroute.envs.registry import DEFAULT, load_suite

app = typer.Typer()


@app.command(
    epilog=examples(
        "bitroute quantize w4g64-gptq w2g128-rtn",
        "bitroute quantize w8n4g64-rtn --out variants",
        "bitroute quantize gguf-f16 gguf-q4_0 gguf-w2g128-rtn",
    ),
)
def quantize(
    schemes: Annotated[
        list[str],
        typer.Argument(
            help="Schemes, e.g. w4g64-gptq, w3row-gptq (one group a row), w2.5g64-gptq (a mean of 2 and 3 bits), or "
            "w8n4g64-rtn: 4 bits nested in 8. For llama.cpp: gguf-f16, gguf-q8_0, gguf-q4_0, gguf-q3_k, "
            "gguf-q2_k, or gguf-w2g128-rtn (2 to 4 bits to nearest)."
        ),
    ],
    suite: SuiteName = DEFAULT,
    model: Model = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory for the variants; by default the model's own, for a bundled one variants/."),
    ] = None,
) -> None:
    """Write low-bit variants of a model.

    Prints their sizes. Variants in the model's own directory are used by every later run; what is missing is made when a run
    needs it, in the run's directory. A bundled model's directory is the package's: nothing is written there.
    """
    chosen = load_suite(suite)
    source = find_model(model or chosen.defaults.model, chosen)
    folder = out or (source if model_name(source, chosen) == str(source) else Path("variants"))
    from bitroute.engines import loading  # noqa: PLC0415
    from bitroute.evaluation.tables import align  # noqa: PLC0415
    from bitroute.quantization.scheme import Scheme  # noqa: PLC0415
    from bitroute.quantization.store import read_info  # noqa: PLC0415
    from bitroute.rollout.host import calibration_batches  # noqa: PLC0415

    jobs: list[tuple[str, Callable[[], Path], float | None]] = []  # bits a weight where the name says it, else the file does
    for scheme in schemes:
        if scheme.startswith("gguf-"):
            from bitroute.quantization.gguf import GgufScheme, export_gguf  # noqa: PLC0415

            make = partial(export_gguf, source, scheme, folder)
            jobs.append((f"{scheme} (all weights)", make, GgufScheme.parse(scheme).bits_per_weight))
        else:
            Scheme.parse(scheme)
            calibration = partial(calibration_batches, chosen, source)
            make = partial(loading.quantize, source, scheme, folder, calibration)
            jobs.append((f"{scheme} (block layers)", make, None))
    size = sum(p.stat().st_size for p in source.glob("model*.safetensors"))
    lines = [("checkpoint (all weights)", "16", f"{size:,}", str(source))]
    for label, write, bits in jobs:
        path = write()
        lines.append((label, f"{bits or read_info(path).bits_per_weight:.4g}", f"{path.stat().st_size:,}", str(path)))
    typer.echo(align(("variant", "bits a weight", "bytes", "file"), lines))


@app.command(
    epilog=examples(
        "bitroute profile MODEL w2g128-rtn",
        "bitroute profile MODEL gguf-q2_k gguf-q3_k gguf-q4_0 --engine llama.cpp --out cost.json",
    ),
)
def profile(
    model: Annotated[Path, typer.Argument(help="A bundled model's name, or a directory.")],
    schemes: Annotated[
        list[str],
        typer.Argument(help="Schemes of the low variants. On llama.cpp its own types, from gguf-q2_k to gguf-q8_0."),
    ],
    engine: Annotated[str, typer.Option(help="What computes: torch, this package's engine, or llama.cpp.")] = "torch",
    suite: SuiteName = DEFAULT,
    device: Device = None,
    dtype: Dtype = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Times that each call is made; the shortest counts. More for small models.")
    ] = 3,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("cost.json"),
) -> None:
    """Time a model's variants and fit what a call costs.

    Prefill, cached contexts and decoding at several lengths, one request at a time, in seconds of processor time (on a GPU, of
    the clock). Prints the rates of each variant in milliseconds and how far they are from what was timed. The file is what an
    experiment's `cost` takes.
    """
    chosen = load_suite(suite)
    source = find_model(model, chosen)
    from bitroute.engines.registry import make_variants  # noqa: PLC0415
    from bitroute.engines.spec import EngineSpec  # noqa: PLC0415
    from bitroute.evaluation.tables import align  # noqa: PLC0415
    from bitroute.experiment.costs import LLAMA, profile_engine, profile_llama  # noqa: PLC0415
    from bitroute.rollout.host import calibration_batches  # noqa: PLC0415

    with TemporaryDirectory() as folder:
        if engine == LLAMA:
            fitted = profile_llama(source, schemes, Path(folder), repeats)
        else:
            spec = EngineSpec(
                kind=engine,
                model=source,
                schemes=tuple(schemes),
                variants=Path(folder),
                device=device or "auto",
                dtype=dtype or "float32",
            )
            make_variants(spec, lambda: calibration_batches(chosen, source))
            fitted = profile_engine(spec, repeats)
    fitted.save(out)
    rows = [
        (
            name,
            *(
                f"{1000 * rate:.4g}"
                for rate in (rates.call, rates.prefill, rates.decode, 1000 * rates.cached, 1000 * rates.attention)
            ),
            f"{100 * fitted.residuals[name].rms:.0f} %",
            f"{100 * fitted.residuals[name].worst:.0f} %",
        )
        for name, rates in fitted.variants.items()
    ]
    headings = ("variant", "call", "a token read", "decoded", "1000 cached", "1000 pairs", "error", "worst")
    typer.echo(align(headings, rows))
    typer.echo(f"profile: {out}")
