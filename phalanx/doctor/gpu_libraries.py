"""cuBLASLt and cuDNN: there, of the CUDA that CuPy is of, and of versions that are known to work."""

from __future__ import annotations

import re
from typing import Any

from .finding import Finding

TOPIC = "GPU"
FRONTEND = "nvidia-cudnn-frontend"
FRONTEND_SERIES = "1.23."
"""Later ones changed their interface (from 1.27 on) or need packages of 100 MB (from 1.29 on)."""
OLDEST_CUDNN = 91000


def findings(answer: dict[str, Any]) -> list[Finding]:
    """What an answer of the probe says of them, where CuPy works."""
    major = int(answer.get("cupy_cuda") or 0) // 1000
    return [*_products(answer, major), *_cudnn(answer, major)]


def _products(answer: dict[str, Any], major: int) -> list[Finding]:
    number = answer.get("cublaslt")
    package = "nvidia-cublas" if major >= 13 else f"nvidia-cublas-cu{major or 12}"
    if number is None:
        means = "matrix products run on CuPy alone: no bias or activation on the way out, no batches of half precision"
        return [Finding(TOPIC, "cublaslt", "warning", "no cuBLASLt library", means, f"pip install {package}", answer)]
    own = number // 10000
    words = f"cuBLASLt {own}.{number // 100 % 100}.{number % 100} in {answer['cublaslt_file']}"
    if major and own != major:
        means = f"CuPy is of CUDA {major}: two CUDAs in one process may not get on"
        return [Finding(TOPIC, "cublaslt-major", "warning", words, means, f"pip install {package}", answer)]
    return [Finding(TOPIC, "cublaslt", "ok", words)]


def _cudnn(answer: dict[str, Any], major: int) -> list[Finding]:
    number, packages = answer.get("cudnn"), answer.get("cudnn_packages", {})
    frontend = packages.get(FRONTEND)
    wanted = f"pip install '{FRONTEND}=={FRONTEND_SERIES}*' nvidia-cudnn-cu{major or 13}"
    slower = "convolutions and attention run on kernels that are slower"
    if number is None or frontend is None:
        missing = " and ".join([*(["cuDNN"] * (number is None)), *([FRONTEND] * (frontend is None))])
        return [Finding(TOPIC, "cudnn", "warning", f"no {missing}", slower, wanted, answer)]
    words = f"cuDNN {number // 10000}.{number // 100 % 100}.{number % 100} with {FRONTEND} {frontend}"
    if not frontend.startswith(FRONTEND_SERIES):
        means = f"phalanx was written for {FRONTEND_SERIES}*; {slower} if it cannot be used"
        return [Finding(TOPIC, "cudnn-frontend", "warning", words, means, wanted, answer)]
    if number < OLDEST_CUDNN:
        return [
            Finding(
                TOPIC, "cudnn-old", "warning", words, f"9.10 is the oldest that was tried; {slower}", wanted, answer
            )
        ]
    built = next((int(found[1]) for name in packages if (found := re.fullmatch(r"nvidia-cudnn-cu(\d+)", name))), major)
    if major and built != major:
        means = f"it is of CUDA {built}, CuPy of CUDA {major}: two CUDAs in one process may not get on"
        return [Finding(TOPIC, "cudnn-major", "warning", words, means, wanted, answer)]
    return [Finding(TOPIC, "cudnn", "ok", words)]
