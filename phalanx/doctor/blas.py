"""NumPy, its BLAS, the environment that changes it and what that costs; oneDNN."""

from __future__ import annotations

from typing import Any

from .ask import ask
from .finding import Finding, Surroundings

TOPIC = "NumPy"
KERNELS = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "OPENBLAS_LOOPS",
    "NPY_DISABLE_CPU_FEATURES",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "BLIS_ARCH_TYPE",
)
"""They choose other code for the same sums: another speed, and other bits."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
MEMORY = "GLIBC_TUNABLES"
WORTH_SAYING = 1.15
"""A ratio of speeds above this is no noise of the short measurement."""
ONEDNN = (3, 2)
"""What onednn-cpu-gomp 2023.2.0 holds, and what its C structures were written down from."""


def check(here: Surroundings) -> list[Finding]:
    answer = ask("numpy", here.python, here.environ)
    if "version" not in answer:
        words = f"NumPy cannot be imported: {answer['error']}"
        return [
            Finding(
                TOPIC,
                "numpy",
                "error",
                words,
                "nothing of phalanx but its launcher works",
                "pip install 'numpy>=2.1.2,<2.6'",
            )
        ]
    return [*_numpy(answer), *_kernels(here, answer), *_threads(here, answer), *_memory(here)]


def _blas(answer: dict[str, Any]) -> dict[str, Any]:
    return next((pool for pool in answer["pools"] or () if pool["user_api"] == "blas"), {})


def _numpy(answer: dict[str, Any]) -> list[Finding]:
    pool = _blas(answer)
    if not pool:
        words = f"NumPy {answer['version']}, and threadpoolctl sees no BLAS that it knows"
        return [
            Finding(
                TOPIC,
                "blas",
                "warning",
                words,
                "its threads cannot be held to one, which equal bits (shards) need",
                "pip install --force-reinstall --only-binary :all: numpy threadpoolctl",
                answer,
            )
        ]
    speed = f"{answer['gflops']:.0f} GFLOP/s in one thread" if answer["gflops"] else ""
    name = f"{pool['internal_api']} {pool['version']}, kernels {pool['architecture']}"
    return [Finding(TOPIC, "blas", "ok", f"NumPy {answer['version']} with {name}, {speed}", data=answer)]


def _kernels(here: Surroundings, before: dict[str, Any]) -> list[Finding]:
    """Measured with the settings and without them, in turn."""
    settings = {name: here.environ[name] for name in KERNELS if here.environ.get(name)}
    if not settings:
        return [Finding(TOPIC, "blas-environment", "ok", "no setting chooses other BLAS kernels than the processor's")]
    clean = {name: value for name, value in here.environ.items() if name not in settings}
    with_it, without = [before], []
    for _ in range(3):
        without.append(ask("numpy", here.python, clean))
        with_it.append(ask("numpy", here.python, here.environ))
    slow, fast = (max((a.get("gflops") or 0.0 for a in answers), default=0.0) for answers in (with_it, without))
    words = " ".join(f"{name}={value}" for name, value in settings.items())
    kernels = [_blas(a).get("architecture", "?") for a in (before, without[0]) if a.get("pools")]
    data = {"settings": settings, "gflops": slow, "gflops_without": fast, "kernels": kernels}
    if slow and fast / slow > WORTH_SAYING:
        return [
            Finding(
                TOPIC,
                "blas-environment",
                "warning",
                f"{words}: matrix products run at {slow:.0f} GFLOP/s, {fast:.0f} without ({' -> '.join(kernels)})",
                f"every matrix product takes {fast / slow:.1f} times as long; bits differ from a machine without the setting",
                f"unset {' '.join(settings)}",
                data,
            )
        ]
    return [
        Finding(
            TOPIC,
            "blas-environment",
            "note",
            f"{words} (measured: no slower)",
            "bits may differ from a machine without the setting",
            f"unset {' '.join(settings)}",
            data,
        )
    ]


def _threads(here: Surroundings, answer: dict[str, Any]) -> list[Finding]:
    settings = {name: here.environ[name] for name in THREADS if here.environ.get(name)}
    words = " ".join(f"{name}={value}" for name, value in settings.items()) or "no thread limit is set"
    count = max((pool["num_threads"] for pool in answer["pools"] or ()), default=1)
    total = count * here.local_ranks
    data = {"settings": settings, "threads": count, "local_ranks": here.local_ranks, "cores": here.cores}
    found = (
        f"{words}: {count} thread{'s' * (count > 1)} in each of {here.local_ranks} rank{'s' * (here.local_ranks > 1)}"
    )
    if total > here.cores and count > 1:
        fair = max(1, here.cores // here.local_ranks)
        return [
            Finding(
                TOPIC,
                "threads",
                "warning",
                f"{found} on {here.cores} cores",
                "threads that share cores slow each other down two to six times (measured)",
                f"export OMP_NUM_THREADS={fair} OPENBLAS_NUM_THREADS={fair} MKL_NUM_THREADS={fair} (phalanx run does it by itself)",
                data,
            )
        ]
    return [Finding(TOPIC, "threads", "ok", f"{found}, {here.cores} cores", data=data)]


def _memory(here: Surroundings) -> list[Finding]:
    names = [name for name in here.environ if name.startswith("MALLOC_") or name == MEMORY]
    if not names:
        return []
    return [
        Finding(
            TOPIC,
            "malloc",
            "note",
            f"{', '.join(names)} set: phalanx leaves the C library's memory settings alone",
            "large arrays may be mapped and faulted in anew for each step (a CNN step took about a quarter longer)",
            f"unset {' '.join(names)}",
        )
    ]


# --- oneDNN -----------------------------------------------------------------------------------------------------------


def check_onednn(here: Surroundings) -> list[Finding]:
    return [onednn(ask("onednn", here.python, here.environ))]


def onednn(answer: dict[str, Any]) -> Finding:
    """The finding for an answer of the probe."""
    topic, fix = "oneDNN", "pip install 'phalanx[cpu]'"
    if answer.get("version"):
        version = ".".join(map(str, answer["version"]))
        found = f"oneDNN {version} in {answer['file']}"
        if tuple(answer["version"][:2]) != ONEDNN:
            means = (
                f"phalanx's optional kernels are written for oneDNN {'.'.join(map(str, ONEDNN))}: NumPy is used instead"
            )
            return Finding(topic, "onednn-version", "warning", found, means, fix, answer)
        if not answer.get("cffi"):
            return Finding(
                topic,
                "onednn-cffi",
                "warning",
                f"{found}, but no cffi",
                "oneDNN cannot be called: NumPy is used",
                fix,
                answer,
            )
        return Finding(topic, "onednn", "ok", f"{found}, cffi {answer['cffi']}", data=answer)
    if answer.get("error") or answer.get("packages"):
        why = answer.get("error") or "no libdnnl.so in it can be loaded"
        return Finding(
            topic,
            "onednn-broken",
            "warning",
            f"oneDNN is installed but does not load: {why}",
            "NumPy is used instead",
            f"apt-get install libgomp1 && {fix}",
            answer,
        )
    return Finding(
        topic, "onednn", "note", "oneDNN is not installed (optional)", "NumPy's kernels are used", fix, answer
    )
