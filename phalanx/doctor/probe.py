"""What the doctor asks a process of its own, because the answer may hang, crash, or leave something behind.

Run as a file, ``python -P probe.py QUESTION [argument ...]``; imports nothing of phalanx. The answer is one line of JSON on
stdout; an error is ``{"error": text}``.
"""

import ctypes
import glob
import importlib
import importlib.metadata
import json
import os
import sys
import time
from typing import Any

GEMM_SIZE = 512
GEMM_S = 0.15


def numpy() -> dict[str, Any]:
    """Version, BLAS, threads, and the speed of its matrix product in GFLOP/s (one thread, float32)."""
    np = importlib.import_module("numpy")
    answer: dict[str, Any] = {"version": np.__version__, "pools": None, "gflops": None}
    try:
        control = importlib.import_module("threadpoolctl")
    except ImportError:
        return answer
    answer["pools"] = [
        {
            name: pool.get(name)
            for name in ("user_api", "internal_api", "filepath", "version", "num_threads", "architecture")
        }
        for pool in control.threadpool_info()
    ]
    control.threadpool_limits(1)
    a = np.ones((GEMM_SIZE, GEMM_SIZE), np.float32)
    out = np.empty_like(a)
    times: list[float] = []
    end = time.perf_counter() + GEMM_S
    while time.perf_counter() < end or len(times) < 3:
        began = time.thread_time()  # of the processor: other processes may want it, too
        np.dot(a, a, out=out)
        times.append(time.thread_time() - began)
    answer["gflops"] = 2e-9 * GEMM_SIZE**3 / min(times)
    return answer


def onednn() -> dict[str, Any]:
    """Which libdnnl there is, in which file, and its version."""
    answer: dict[str, Any] = {"packages": _packages("onednn"), "cffi": _version("cffi"), "file": None, "version": None}

    class Version(ctypes.Structure):
        _fields_ = [("major", ctypes.c_int), ("minor", ctypes.c_int), ("patch", ctypes.c_int)]

    found: list[str] = []
    for prefix in dict.fromkeys((sys.prefix, *sys.path)):
        for pattern in ("lib/libdnnl.so*", "libdnnl.so*", "*/lib/libdnnl.so*"):
            found += sorted(glob.glob(os.path.join(prefix, pattern)))
    for path in [*found, "libdnnl.so.3", "libdnnl.so.2"]:
        try:
            library = ctypes.CDLL(path)
            library.dnnl_version.restype = ctypes.POINTER(Version)
            version = library.dnnl_version().contents
        except (OSError, AttributeError) as error:
            answer["error"] = str(error) if os.path.exists(path) else None
            continue
        answer |= {"file": _mapped("libdnnl") or path, "error": None}
        return answer | {"version": [version.major, version.minor, version.patch]}
    return answer


def gpu() -> dict[str, Any]:
    """The driver, CuPy, and NCCL; each as far as it can be had."""
    answer: dict[str, Any] = {"devices": len(glob.glob("/dev/nvidia[0-9]*")), "driver": None, "driver_cuda": None}
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8", errors="replace") as file:
            answer["driver"] = next((word for word in file.readline().split() if word[:1].isdigit()), None)
    except OSError:
        pass
    try:
        driver, number = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
        if driver.cuDriverGetVersion(ctypes.byref(number)) == 0:
            answer["driver_cuda"] = number.value
    except (OSError, AttributeError) as error:
        answer["driver_error"] = str(error)
    answer["cupy_packages"] = _packages("cupy")
    answer["nccl_packages"] = _packages("nvidia-nccl")
    if answer["cupy_packages"]:
        answer |= _cupy()
    return answer | _nccl() | _products() | _cudnn()


def _cupy() -> dict[str, Any]:
    try:
        cupy = importlib.import_module("cupy")
        runtime = cupy.cuda.runtime
        answer = {"cupy": cupy.__version__, "cupy_cuda": int(runtime.runtimeGetVersion()), "gpus": 0}
    except Exception as error:
        return {"cupy_error": f"{type(error).__name__}: {error}"}
    try:
        count = int(runtime.getDeviceCount())
        names = [runtime.getDeviceProperties(i)["name"].decode() for i in range(count)]
        one = cupy.arange(4, dtype=cupy.float32)
        answer |= {"gpus": count, "names": names, "works": float((one * one).sum()) == 14.0}
        answer["memory"] = [_memory_of(cupy, index) for index in range(count)]
        pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
        answer["apart"] = [list(pair) for pair in pairs if not runtime.deviceCanAccessPeer(*pair)]
        return answer
    except Exception as error:
        return answer | {"gpu_error": f"{type(error).__name__}: {error}"}


def _memory_of(cupy: Any, index: int) -> list[int]:
    """Free and all bytes of a GPU."""
    with cupy.cuda.Device(index):
        free, total = cupy.cuda.runtime.memGetInfo()
    return [int(free), int(total)]


def _library(*names: str) -> list[str]:
    """Files of a library of NVIDIA's: loaded already, from pip's packages, from the loader."""
    found = [path for name in names if (path := _mapped(name.partition("*")[0]))]
    for place in sys.path:
        for name in names:
            found += sorted(glob.glob(os.path.join(place, "nvidia", "*", "lib", name)), reverse=True)
    return [
        *found,
        *(f"{name.rstrip('*')}.{major}" for name in names for major in (13, 12, 9) if name.endswith(".so*")),
    ]


def _products() -> dict[str, Any]:
    """cuBLASLt, which our products go to."""
    answer: dict[str, Any] = {"cublaslt": None, "cublas_packages": _packages("nvidia-cublas")}
    named = os.environ.get("PHALANX_CUBLASLT")
    for path in [*([named] if named else []), *_library("libcublasLt.so*")]:
        try:
            library = ctypes.CDLL(path.replace(".so*", ".so"))
            library.cublasLtGetVersion.restype = ctypes.c_size_t
            return answer | {"cublaslt": int(library.cublasLtGetVersion()), "cublaslt_file": path}
        except (OSError, AttributeError):
            continue
    return answer


def _cudnn() -> dict[str, Any]:
    """cuDNN, which convolutions and attention go to, and the package that speaks to it."""
    answer: dict[str, Any] = {"cudnn": None, "cudnn_packages": _packages("nvidia-cudnn")}
    for path in _library("libcudnn.so*"):
        try:
            library = ctypes.CDLL(path.replace(".so*", ".so"))
            library.cudnnGetVersion.restype = ctypes.c_size_t
            return answer | {"cudnn": int(library.cudnnGetVersion()), "cudnn_file": path}
        except (OSError, AttributeError):
            continue
    return answer


def _nccl() -> dict[str, Any]:
    """The library that CuPy has loaded by now, else the one beside the packages, else the loader's."""
    beside = [path for place in sys.path for path in glob.glob(os.path.join(place, "nvidia/nccl/lib/libnccl.so.2"))]
    for path in (_mapped("libnccl.so"), *beside, "libnccl.so.2"):
        if not path:
            continue
        try:
            library, number = ctypes.CDLL(path), ctypes.c_int()
            library.ncclGetVersion(ctypes.byref(number))
        except (OSError, AttributeError):
            continue
        return {"nccl": number.value, "nccl_file": _mapped("libnccl.so") or path}
    return {"nccl": None}


def zmq() -> dict[str, Any]:
    """pyzmq, libzmq and what it can."""
    module = importlib.import_module("zmq")
    return {
        "pyzmq": module.__version__,
        "libzmq": module.zmq_version(),
        "curve": bool(module.has("curve")),
        "seals": _can_seal(),
        "ipc": bool(module.has("ipc")),
        "file": _mapped("libzmq") or _mapped("_zmq"),
    }


def _can_seal() -> bool:
    try:
        return hasattr(importlib.import_module("cryptography.hazmat.primitives.ciphers.aead").AESGCM, "decrypt_into")
    except ImportError:
        return False


def mpi() -> dict[str, Any]:
    """Which MPI library mpi4py loads. MPI is not started: a start alone leaves a file in /dev/shm."""
    mpi4py = importlib.import_module("mpi4py")
    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    library = importlib.import_module("mpi4py.MPI")
    return {
        "mpi4py": mpi4py.__version__,
        "library": " ".join(library.Get_library_version().partition(",")[0].splitlines()[0].strip(" \0").split()),
        "kind": _kind(library.Get_library_version()),
        "standard": list(library.Get_version()),
        "file": _mapped("libmpi.so"),
    }


def world(folder: str) -> dict[str, Any]:
    """Run by mpirun: start MPI, and leave in ``folder`` what this process sees of the world."""
    library = importlib.import_module("mpi4py.MPI")
    comm = library.COMM_WORLD
    answer = {"rank": comm.rank, "size": comm.size, "kind": _kind(library.Get_library_version())}
    answer["total"] = comm.allreduce(1)
    answer["threads"] = library.Query_thread() >= library.THREAD_MULTIPLE
    with open(os.path.join(folder, f"{os.getpid()}.part"), "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os.rename(file.name, file.name.replace(".part", ".json"))
    return answer


def memory(pid: str, descriptor: str) -> dict[str, Any]:
    """Open another process's anonymous memory and write to it, as ranks of one host do."""
    opened = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR)
    os.pwrite(opened, b"seen", 0)
    os.close(opened)
    return {"opened": True}


def _kind(library: str) -> str:
    return (
        "Open MPI" if "Open MPI" in library else "MPICH" if "MPICH" in library or "Intel" in library else library[:40]
    )


def _mapped(name: str) -> str | None:
    """The file whose name begins so and that this process has loaded."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            paths = [line.split(maxsplit=5)[5].strip() for line in file if "/" in line]
    except OSError:
        return None
    return next((path for path in paths if os.path.basename(path).startswith(name)), None)


def _packages(prefix: str) -> dict[str, str]:
    names = ((d.metadata["Name"] or "", d.version) for d in importlib.metadata.distributions())
    return {name.lower(): version for name, version in names if name.lower().startswith(prefix)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


QUESTIONS: dict[str, Any] = {
    "numpy": numpy,
    "onednn": onednn,
    "gpu": gpu,
    "zmq": zmq,
    "mpi": mpi,
    "world": world,
    "memory": memory,
}


def main(arguments: list[str]) -> None:
    question, *rest = arguments
    try:
        answer = QUESTIONS[question](*rest)
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}", "missing": isinstance(error, ModuleNotFoundError)}
    print("\n" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
