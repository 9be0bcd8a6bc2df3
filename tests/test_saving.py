"""Weights that are written piece by piece are those that safetensors reads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, load_model
from torch import nn

from harness.trial import saving


def test_what_is_written_is_what_safetensors_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "PIECE_BYTES", 1000)  # most tensors take several
    state = {
        "odd": torch.randint(0, 255, (3001,), dtype=torch.uint8),
        "bits": torch.rand(77) > 0.5,
        "table": torch.randn(100, 33).bfloat16(),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "none": torch.empty(0, 4),
        "weight": torch.randn(40, 50),
        "count": torch.tensor([1, 2**40]),
    }
    saving.write(state, tmp_path / "model.safetensors")
    found = load_file(str(tmp_path / "model.safetensors"))
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


class Tied(nn.Module):
    def __init__(self, device: str) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5, device=device)
        self.second = nn.Linear(5, 5, device=device)
        self.second.weight = self.first.weight


HAS_GPU = torch.cuda.is_available()
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_a_model_is_read_back_whatever_it_shares(tmp_path: Path, device: str) -> None:
    for number, model in enumerate((nn.Linear(300, 7, device=device), Tied(device))):
        path = tmp_path / f"{number}.safetensors"
        saving.save(model, path)
        wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        load_model(model, str(path))
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
