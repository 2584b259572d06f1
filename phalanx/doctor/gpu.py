"""CuPy, the driver and NCCL."""

from __future__ import annotations

from typing import Any

from . import gpu_libraries
from .ask import ask
from .finding import Finding, Surroundings

TOPIC = "GPU"
DRIVER_FOR = {12: "525.60", 13: "580.65"}
"""CUDA major -> the oldest Linux driver that runs it (NVIDIA's table of minor version compatibility)."""


_LITTLE = 0.8
"""Less free memory than this share is worth a word."""


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
    found = _cupy(answer, packages)
    if found.severity != "ok":
        return [found, *_nccl(answer)]
    return [found, *_memory(answer), *gpu_libraries.findings(answer), *_peers(answer), *_nccl(answer)]


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


def _memory(answer: dict[str, Any]) -> list[Finding]:
    """GPUs whose memory other processes hold."""
    found = []
    for index, (free, total) in enumerate(answer.get("memory", ())):
        words = f"GPU {index}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        if free < _LITTLE * total:
            means = "other processes hold the rest: training may run out of memory"
            found.append(Finding(TOPIC, "memory", "warning", words, means, "nvidia-smi", {"gpu": index}))
        else:
            found.append(Finding(TOPIC, "memory", "ok", words, data={"gpu": index}))
    return found


def _peers(answer: dict[str, Any]) -> list[Finding]:
    """Whether the GPUs of this machine reach each other's memory."""
    if answer.get("gpus", 0) < 2:
        return []
    apart = answer.get("apart", [])
    if not apart:
        return [Finding(TOPIC, "peers", "ok", f"all {answer['gpus']} GPUs reach each other's memory")]
    pairs = ", ".join(f"{a}-{b}" for a, b in apart if a < b)
    means = "NCCL goes through the host's memory there: slower sums, the same bits"
    return [
        Finding(TOPIC, "peers", "note", f"GPUs {pairs} do not reach each other's memory", means, "nvidia-smi topo -m")
    ]


def _nccl(answer: dict[str, Any]) -> list[Finding]:
    if answer.get("nccl") is None:
        major = (answer["driver_cuda"] or 12000) // 1000
        return [
            Finding(
                TOPIC,
                "nccl",
                "note",
                "no NCCL library",
                "gradients of several GPUs go through the host's memory",
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
