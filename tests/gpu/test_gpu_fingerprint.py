"""What decides the bits on a GPU is compared between ranks and kept with checkpoints."""

from __future__ import annotations

import pytest

import phalanx
from phalanx import nn
from phalanx.dist import data_parallel, processor
from phalanx.dist.errors import MismatchError
from phalanx.dist.group import current


def test_the_gpu_joins_the_fingerprint_when_a_model_lies_there(device: str) -> None:
    phalanx.shutdown()
    phalanx.DataParallel(nn.Linear(2, 1))
    assert "gpu" not in current().fingerprint
    phalanx.DataParallel(nn.Linear(2, 1).to(device))
    found = current().fingerprint
    assert found["gpu"] == phalanx.cuda.get_device_name()
    assert "own kernels" in found["gpu kernels"] and "NVRTC" in found["gpu kernels"]
    phalanx.shutdown()


def test_ranks_on_unequal_gpus_are_told_apart(device: str) -> None:
    mine = processor.of_gpu()
    data_parallel._same_gpus([mine, dict(mine)])
    with pytest.raises(MismatchError, match=r"rank 1 differs from rank 0: gpu: .* on rank 0, 'another' on rank 1"):
        data_parallel._same_gpus([mine, mine | {"gpu": "another"}])
    with pytest.raises(MismatchError, match="'none' on rank 2"):
        data_parallel._same_gpus([mine, mine, {}])
