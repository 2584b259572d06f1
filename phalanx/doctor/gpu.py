"""CuPy, the driver and NCCL."""

from __future__ import annotations

from typing import Any

from .ask import ask
from .finding import Finding, Surroundings

TOPIC = "GPU"
DRIVER_FOR = {12: "525.60", 13: "580.65"}
"""CUDA major -> the oldest Linux driver that runs it (NVIDIA's table of minor version compatibility)."""


def check(here: Surroundings) -> list[Finding]:
    return findings(ask("gpu", here.python, here.environ))


def findings(answer: dict[str, Any]) -> list[Finding]:
    """What an answer of the probe means."""
    if "devices" not in answer:
        means = "it cannot be told whether this machine's GPUs can be used"
        return [
            Finding(
                TOPIC, "gpu", "warning", f"the look for GPUs failed: {answer['error']}", means, "nvidia-smi", answer
            )
        ]
    packages = answer["cupy_packages"]
    present = bool(answer["devices"] or answer["driver"])
    if not packages:
        return [_no_cupy(answer, present)]
    if len(packages) > 1:
        names = " ".join(packages)
        words = f"several CuPy packages at once: {_listed(packages)}"
        means = "they overwrite each other's files"
        return [
            Finding(
                TOPIC, "cupy-twice", "error", words, means, f"pip uninstall -y {names} && pip install {_wanted(answer)}"
            )
        ]
    if not present and answer["driver_cuda"] is None:
        words = f"{_listed(packages)}, but no NVIDIA device or driver on this machine"
        return [Finding(TOPIC, "gpu-none", "note", words, 'device "cuda" cannot be used, "cpu" can', "", answer)]
    return [_cupy(answer, packages), *_nccl(answer)]


def _no_cupy(answer: dict[str, Any], present: bool) -> Finding:
    if not present:
        return Finding(TOPIC, "cupy", "note", "no NVIDIA GPU and no CuPy: this machine trains on its CPU", data=answer)
    if answer["driver_cuda"] is None or answer["driver_cuda"] < 12000:
        words = f"an NVIDIA device, driver {answer['driver'] or 'not loaded'}, and no CuPy"
        return Finding(
            TOPIC,
            "driver-old",
            "warning",
            words,
            f"CuPy needs CUDA 12, that is driver {DRIVER_FOR[12]} or newer",
            f"install NVIDIA's driver {DRIVER_FOR[12]} or newer, then pip install 'phalanx[cuda12]'",
            answer,
        )
    words = f"{answer['devices']} NVIDIA device(s), driver {answer['driver']} (CUDA {_cuda(answer['driver_cuda'])}), and no CuPy"
    return Finding(
        TOPIC, "cupy-missing", "warning", words, "the GPUs are not used", f"pip install {_wanted(answer)}", answer
    )


def _cupy(answer: dict[str, Any], packages: dict[str, str]) -> Finding:
    name = next(iter(packages))
    major = int(name[9:-1]) if name.startswith("cupy-cuda") and name[9:-1].isdigit() else 0
    driver = answer["driver_cuda"]
    if driver is None:
        words = f"{_listed(packages)}, but libcuda.so.1 cannot be loaded ({answer.get('driver_error', 'no answer')})"
        return Finding(
            TOPIC,
            "driver-missing",
            "error",
            words,
            "no GPU can be used; in a container the driver's libraries are not passed in",
            "start the container with --gpus all (NVIDIA container toolkit), or install NVIDIA's driver",
            answer,
        )
    if major and driver // 1000 < major:
        words = f"{_listed(packages)}, but driver {answer['driver']} runs CUDA {_cuda(driver)} at most"
        means = f"CUDA {major} needs driver {DRIVER_FOR.get(major, 'of a later series')} or newer"
        return Finding(
            TOPIC,
            "cuda-major",
            "error",
            words,
            means,
            f"pip uninstall -y {name} && pip install {_wanted(answer)}",
            answer,
        )
    problem = (
        answer.get("cupy_error") or answer.get("gpu_error") or (None if answer.get("works") else "a product is wrong")
    )
    if problem or not answer.get("gpus"):
        words = f"{_listed(packages)} does not work: {problem or 'it sees no GPU'}"
        return Finding(
            TOPIC,
            "cupy-broken",
            "error",
            words,
            'device "cuda" cannot be used',
            f"nvidia-smi; pip install --force-reinstall {_wanted(answer)}",
            answer,
        )
    gpus = ", ".join(answer["names"])
    words = f"{_listed(packages)} (CUDA {_cuda(answer['cupy_cuda'])}) on {gpus}, driver {answer['driver']}"
    return Finding(TOPIC, "cupy", "ok", words, data=answer)


def _nccl(answer: dict[str, Any]) -> list[Finding]:
    if answer.get("nccl") is None:
        major = (answer["driver_cuda"] or 12000) // 1000
        return [
            Finding(
                TOPIC,
                "nccl",
                "note",
                "no NCCL library",
                "GPUs cannot exchange gradients by themselves",
                f"pip install nvidia-nccl-cu{min(13, max(12, major))}",
            )
        ]
    number = answer["nccl"]
    version = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return [
        Finding(
            TOPIC, "nccl", "ok", f"NCCL {version} in {answer['nccl_file']}", data={"packages": answer["nccl_packages"]}
        )
    ]


def _wanted(answer: dict[str, Any]) -> str:
    return "'phalanx[cuda13]'" if (answer["driver_cuda"] or 0) >= 13000 else "'phalanx[cuda12]'"


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _listed(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())
