from pathlib import Path

import pytest

from bitroute.cli.main import main
from bitroute.cost import CostModel


@pytest.mark.slow
def test_a_profile_is_printed_and_written(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cost.json"
    assert main(["profile", str(tiny_model), "w2g64-rtn", "--device", "cpu", "--out", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["w2g64-rtn", "bf16"]
    assert lines[-1] == f"profile: {path}"
    found = CostModel.load(path)
    assert (found.unit, found.engine, set(found.variants)) == ("seconds", "torch", {"w2g64-rtn", "bf16"})
    assert found.measured["model"] == tiny_model.name and found.measured["date"]
    assert all(rates.prefill > 0 and rates.decode > 0 for rates in found.variants.values())


def test_a_scheme_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf", reason="needs the extra serve-demo")
    assert main(["profile", "alfworld-agent", "fp8", "--out", str(tmp_path / "a")]) == 2
    assert "unknown scheme 'fp8'" in capsys.readouterr().err
    assert main(["profile", "alfworld-agent", "gguf-q1", "--engine", "llama.cpp", "--out", str(tmp_path / "a")]) == 2
    assert "unknown scheme 'gguf-q1'" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
