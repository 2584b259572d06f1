"""``phalanx doctor``: each finding is right, on a machine that is well and on one that is made sick in a namespace of its own."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phalanx.dist import env, leftovers
from phalanx.dist.env import RankEnvironment
from phalanx.doctor import ask, blas, folder, gpu, links, main, mpi, packages, ranks, system
from phalanx.doctor.finding import Finding, Surroundings, joined, worst
from tests.hosts import PORT, Hosts, needs_hosts
from tests.jobs import ROOT, THREAD_LIMITS, Job

DOCTOR = [sys.executable, "-m", "phalanx", "doctor"]
HERE = Surroundings(env.without_ranks(os.environ))
ROOT_USER = os.geteuid() == 0 and shutil.which("unshare") is not None
FAKE_MPIRUN = """#!/bin/sh
[ "$1" = --version ] && echo "HYDRA build details:" && exit 0
count=$2; shift 2
for rank in $(seq 0 $((count - 1))); do PMI_RANK=$rank PMI_SIZE=$count "$@" & done
wait
"""
SICK = """
set -e
mount -t tmpfs -o size=20m tmpfs /dev/shm
case "$ROOT" in
/tmp/*)  # a checkout that must not be hidden
    mount --bind "$ROOT" "$FOLDER.root"
    mount -t tmpfs -o size=200m tmpfs /tmp
    mkdir -p "$ROOT"
    mount --bind "$FOLDER.root" "$ROOT"
    cd "$ROOT";;
*)  mount -t tmpfs -o size=200m tmpfs /tmp;;
esac
export TMPDIR=/tmp
"$PYTHON" -c 'import os; from mpi4py import MPI; os.kill(os.getpid(), 9)' > /dev/null 2>&1 || true
find /dev/shm /tmp -xdev -mindepth 1 -exec touch -h -d "1 hour ago" {} +
ls /dev/shm /tmp > "$FOLDER/planted"
ulimit -S -n 64
"$PYTHON" -m phalanx doctor --json > "$FOLDER/report" || echo $? > "$FOLDER/code"
"$PYTHON" -m phalanx doctor --sweep --json > "$FOLDER/swept"
ls /dev/shm /tmp > "$FOLDER/left"
"""


class Report:
    """What ``phalanx doctor --json`` printed."""

    def __init__(self, text: str, code: int) -> None:
        self.answer = json.loads(text[text.index("{\n") :])
        self.code = code
        assert self.answer["exit_code"] == code, text

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The one finding with this key."""
        found = self.all(key)
        assert len(found) == 1, f"{key}: {found or [f['key'] for f in self.answer['findings']]}"
        return found[0]

    def all(self, key: str) -> list[dict[str, Any]]:
        return [finding for finding in self.answer["findings"] if finding["key"] == key]


def clean_environment(**added: str) -> dict[str, str]:
    dropped = (*blas.KERNELS, *THREAD_LIMITS)
    kept = {name: value for name, value in env.without_ranks(os.environ).items() if name not in dropped}
    return kept | {"PYTHONPATH": str(ROOT)} | added


@pytest.fixture(scope="module")
def well() -> Report:
    done = subprocess.run(
        [*DOCTOR, "--json"], env=clean_environment(), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    return Report(done.stdout, done.returncode)


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """In a mount namespace of its own: a small /dev/shm, a leftover, another mpirun, other BLAS kernels, few open files."""
    place = tmp_path_factory.mktemp("sick")
    kept = Path("/var/tmp" if str(place).startswith("/tmp") else place.parent, f"phalanx-test-{os.getpid()}")
    root = kept.with_suffix(".root")
    kept.mkdir(), root.mkdir()  # outside of the /tmp that the namespace hides
    try:
        fake = kept / "mpirun"
        fake.write_text(FAKE_MPIRUN)
        fake.chmod(0o755)
        environ = clean_environment(
            PYTHON=sys.executable, FOLDER=str(kept), ROOT=str(ROOT), PATH=f"{kept}:{os.environ['PATH']}", OPENBLAS_CORETYPE="Prescott",
            OMPI_MCA_btl="^ofi",
        )  # fmt: skip
        command = ["unshare", "-m", "sh", "-c", SICK]
        done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == 0, done.stderr
        for file in kept.iterdir():
            shutil.copy(file, place)
    finally:
        shutil.rmtree(kept)
        root.rmdir()
    return Report((place / "report").read_text(), int((place / "code").read_text())), place


# --- a machine that is well -------------------------------------------------------------------------------------------


def test_a_machine_that_is_well(well: Report) -> None:
    """What this very test run proves otherwise: NumPy, ZeroMQ and MPI work here."""
    for key in ("python-version", "packages", "blas", "blas-environment", "zmq", "memfd", "open-files", "file-size"):
        assert well[key]["severity"] == "ok", well[key]
    assert well["blas"]["data"]["version"] == packages._installed("numpy")
    assert well["mpi-library"]["data"]["kind"] == "Open MPI"
    assert os.path.realpath(well["mpi-library"]["data"]["file"]).startswith(os.path.realpath(sys.prefix))
    assert [answer["size"] for answer in well["mpirun"]["data"]["answers"]] == [2, 2]
    assert well["interface-lo"]["data"]["addresses"][0] == "127.0.0.1" and well["interface-lo"]["data"]["up"]
    assert not [finding for finding in well.answer["findings"] if finding["severity"] == "error"]
    assert well.code == (1 if well.answer["worst"] == "warning" else 0)


@pytest.mark.skipif(bool(list(Path("/dev").glob("nvidia[0-9]*"))), reason="this machine has a GPU")
def test_cupy_absent(well: Report) -> None:
    assert well["cupy"]["severity"] == "note" and "no NVIDIA GPU and no CuPy" in well["cupy"]["found"]


@pytest.mark.skipif(not ROOT_USER, reason="mount namespaces need root")
def test_it_asks_without_starting_mpi(tmp_path: Path) -> None:
    """A process that starts MPI by itself leaves files; the question which library it is must not."""
    script = 'mount -t tmpfs tmpfs /dev/shm && "$0" -P "$1" mpi && ls -A /dev/shm "$TMPDIR"'
    command = ["unshare", "-m", "sh", "-c", script, sys.executable, ask.PROBE]
    environ = clean_environment(TMPDIR=str(tmp_path))
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    answer, listed = done.stdout.strip().split("\n", 1)
    assert json.loads(answer)["library"].startswith("Open MPI")
    assert listed.split() == ["/dev/shm:", f"{tmp_path}:"], listed


# --- a machine that is sick -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not ROOT_USER, reason="mount namespaces need root")
class TestSick:
    def test_mpirun_of_another_kind(self, sick: tuple[Report, Path]) -> None:
        found = sick[0]["mpirun-mismatch"]
        assert found["severity"] == "error" and sick[0].code == 2
        assert found["found"].startswith("mpirun (MPICH) starts 2 ranks but the library sees a world of 1: ")
        assert "mpirun is of MPICH, the library of Open MPI" in found["means"]
        assert found["fix"].startswith(f"export PATH={Path(sys.prefix, 'bin')}:$PATH")
        assert sick[0]["mpirun"]["data"]["of_phalanx"], "the mpirun beside Python is still good"

    def test_small_shared_memory(self, sick: tuple[Report, Path]) -> None:
        found, cores = sick[0]["shm-small"], HERE.cores
        assert found["severity"] == "warning" and found["data"]["bytes"] == 20 << 20
        assert found["data"]["needed_bytes"] == cores * (16 << 20) > found["data"]["free_bytes"]
        assert "--shm-size" in found["fix"]

    def test_other_blas_kernels(self, sick: tuple[Report, Path]) -> None:
        """SSE3 kernels are several times slower than those of any processor of this century's second decade."""
        found = sick[0]["blas-environment"]
        assert found["severity"] == "warning" and found["fix"] == "unset OPENBLAS_CORETYPE"
        assert found["found"].startswith("OPENBLAS_CORETYPE=Prescott: matrix products run at ")
        assert len(set(found["data"]["kernels"])) == 2, found
        assert found["data"]["gflops_without"] > blas.WORTH_SAYING * found["data"]["gflops"]

    def test_few_open_files(self, sick: tuple[Report, Path]) -> None:
        found = sick[0]["open-files"]
        assert found["severity"] == "warning" and found["data"]["soft"] == 64
        assert found["fix"].startswith("ulimit -n ")

    def test_what_a_killed_process_left_is_found_and_swept(self, sick: tuple[Report, Path]) -> None:
        report, place = sick
        planted = (place / "planted").read_text()
        assert "sm_segment." in planted and "ompi." in planted, "Open MPI leaves nothing any more: the test is void"
        found = report["leftovers"]
        assert found["severity"] == "warning" and found["fix"] == "phalanx doctor --sweep"
        assert any("sm_segment." in path for path in found["data"]["paths"])
        swept = json.loads((place / "swept").read_text())
        assert swept["swept"] == found["data"]["paths"] and not swept["failed"]
        left = (place / "left").read_text()
        assert "sm_segment." not in left and "ompi." not in left, left


# --- single checks, from facts ----------------------------------------------------------------------------------------

NVIDIA = {
    "devices": 1, "driver": "550.54", "driver_cuda": 12040, "cupy_packages": {}, "nccl_packages": {}, "nccl": None,
}  # fmt: skip
CUPY12 = NVIDIA | {
    "cupy_packages": {"cupy-cuda12x": "14.2.0"}, "cupy": "14.2.0", "cupy_cuda": 12080, "gpus": 1, "names": ["H100"], "works": True,
    "nccl": 22703, "nccl_file": "/x/libnccl.so.2",
}  # fmt: skip
GPUS = {
    "no CuPy": (NVIDIA, "cupy-missing", "warning", "phalanx[cuda12]"),
    "no CuPy, new driver": (NVIDIA | {"driver_cuda": 13000}, "cupy-missing", "warning", "phalanx[cuda13]"),
    "old driver": (NVIDIA | {"driver": "470.1", "driver_cuda": 11040}, "driver-old", "warning", "525.60"),
    "all is well": (CUPY12, "cupy", "ok", ""),
    "CUDA 13 on a driver for 12": (
        CUPY12 | {"cupy_packages": {"cupy-cuda13x": "14.2.0"}}, "cuda-major", "error",
        "pip uninstall -y cupy-cuda13x && pip install 'phalanx[cuda12]'",
    ),
    "no driver library": (CUPY12 | {"driver_cuda": None}, "driver-missing", "error", "--gpus all"),
    "two CuPys": (
        CUPY12 | {"cupy_packages": {"cupy-cuda12x": "14.2.0", "cupy-cuda13x": "14.2.0"}}, "cupy-twice", "error", "pip uninstall",
    ),
    "a wrong product": (CUPY12 | {"works": False}, "cupy-broken", "error", "force-reinstall"),
    "CuPy without a GPU": (CUPY12 | {"devices": 0, "driver": None, "driver_cuda": None}, "gpu-none", "note", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", GPUS)
def test_gpus(name: str) -> None:
    answer, key, severity, fix = GPUS[name]
    found = gpu.findings(answer)
    assert (found[0].key, found[0].severity) == (key, severity) and fix in found[0].fix, found[0]
    if key == "cupy":
        assert found[-1].found == "NCCL 2.27.3 in /x/libnccl.so.2"


LIBRARIES = CUPY12 | {
    "cublaslt": 120803, "cublaslt_file": "/x/libcublasLt.so.12", "cudnn": 91900, "gpus": 2, "names": ["H100"] * 2, "apart": [],
    "cudnn_packages": {"nvidia-cudnn-frontend": "1.23.0", "nvidia-cudnn-cu12": "9.19.0.56"}, "memory": [[79 << 30, 80 << 30]] * 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "key", "severity", "words"),
    [
        ({}, "cublaslt", "ok", "cuBLASLt 12.8.3 in /x/libcublasLt.so.12"),
        ({}, "cudnn", "ok", "cuDNN 9.19.0 with nvidia-cudnn-frontend 1.23.0"),
        ({}, "memory", "ok", "GPU 0: 79.0 of 80.0 GiB free"),
        ({}, "peers", "ok", "all 2 GPUs reach each other's memory"),
        ({"cublaslt": None}, "cublaslt", "warning", "no cuBLASLt library"),
        ({"cublaslt": 130100}, "cublaslt-major", "warning", "cuBLASLt 13.1.0"),
        ({"cudnn": None}, "cudnn", "warning", "no cuDNN"),
        ({"cudnn_packages": {}}, "cudnn", "warning", "no nvidia-cudnn-frontend"),
        ({"cudnn_packages": {"nvidia-cudnn-frontend": "1.32.0"}}, "cudnn-frontend", "warning", "1.32.0"),
        ({"cudnn": 90100}, "cudnn-old", "warning", "cuDNN 9.1.0"),
        (
            {"cudnn_packages": {"nvidia-cudnn-frontend": "1.23.0", "nvidia-cudnn-cu13": "9.19.0"}}, "cudnn-major", "warning",
            "cuDNN 9.19.0",
        ),
        ({"memory": [[79 << 30, 80 << 30], [12 << 30, 80 << 30]]}, "memory", "warning", "GPU 1: 12.0 of 80.0 GiB free"),
        ({"apart": [[0, 1], [1, 0]]}, "peers", "note", "GPUs 0-1 do not reach each other's memory"),
    ],
)  # fmt: skip
def test_libraries_of_gpus(change: dict[str, Any], key: str, severity: str, words: str) -> None:
    found = [f for f in gpu.findings(LIBRARIES | change) if (f.key, f.severity) == (key, severity)]
    assert any(words in f.found for f in found), gpu.findings(LIBRARIES | change)


@pytest.mark.parametrize(
    ("answer", "key", "severity"),
    [
        ({"version": None, "packages": {}}, "onednn", "note"),
        ({"version": [3, 2, 0], "file": "f", "cffi": "2.1", "packages": {}}, "onednn", "ok"),
        ({"version": [2, 6, 3], "file": "f", "cffi": "2.1", "packages": {}}, "onednn-version", "warning"),
        ({"version": [3, 2, 0], "file": "f", "cffi": None, "packages": {}}, "onednn-cffi", "warning"),
        (
            {"version": None, "packages": {"onednn-cpu-gomp": "2023.2.0"}, "error": "libgomp"},
            "onednn-broken",
            "warning",
        ),
    ],
)
def test_onednn(answer: dict[str, Any], key: str, severity: str) -> None:
    found = blas.onednn(answer)
    assert (found.key, found.severity) == (key, severity)


def test_more_threads_than_cores() -> None:
    answer = {"pools": [{"user_api": "blas", "num_threads": 2}]}
    crowd = Surroundings({"OMP_NUM_THREADS": "2"}, ranks=8, local_ranks=HERE.cores)
    found = blas._threads(crowd, answer)[0]
    assert found.severity == "warning" and "OMP_NUM_THREADS=2: 2 threads in each of" in found.found
    assert found.fix.startswith("export OMP_NUM_THREADS=1 ")
    assert blas._threads(crowd, {"pools": [{"user_api": "blas", "num_threads": 1}]})[0].severity == "ok"


def test_open_files_for_many_ranks() -> None:
    few = system.open_files(Surroundings({}, ranks=200, local_ranks=4), 1024, 4096)
    assert few.severity == "error" and few.data["needed"] == 64 + 8 * 199 and few.fix.startswith("ulimit -n 4096")
    hard = system.open_files(Surroundings({}, ranks=1000), 1024, 4096)
    assert "hard limit is 4096" in hard.fix
    assert system.open_files(Surroundings({}, ranks=64), 1024, 4096).severity == "ok"
    assert (
        system.open_files(Surroundings({}, ranks=10**6), resource.RLIM_INFINITY, resource.RLIM_INFINITY).severity
        == "ok"
    )


@pytest.mark.parametrize(
    "names", [("memory.max", "memory.current", ""), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")]
)
def test_the_memory_of_a_control_group(names: tuple[str, str, str], tmp_path: Path) -> None:
    limit, usage, prefix = names
    assert system.memory_left([tmp_path])[1] == "the machine"
    inner = tmp_path / "inner"
    inner.mkdir()
    for folder_, most, used in ((tmp_path, 300 << 20, 100 << 20), (inner, 1 << 62, 50 << 20)):
        (folder_ / limit).write_text(f"{most}\n")
        (folder_ / usage).write_text(f"{used}\n")
        (folder_ / "memory.stat").write_text(f"cache 5\n{prefix}inactive_file {30 << 20}\n")
    left, where = system.memory_left([inner, tmp_path])
    assert left == 230 << 20 and where == f"the control group {tmp_path} (315 MB)"


def test_packages_outside_of_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"numpy": "1.26.4", "pyzmq": None, "mpi4py": "3.1.6"}
    monkeypatch.setattr(packages, "_installed", lambda name: versions.get(name, "0"))
    wanted = [
        packages.Requirement("numpy", ">=2.1.2,<2.6"), packages.Requirement("pyzmq", ">=26,<28"),
        packages.Requirement("mpi4py", ">=4.1,<5", "mpi"),
    ]  # fmt: skip
    found = {finding.found: finding for finding in packages._packages(wanted)}
    assert found["numpy 1.26.4, expected >=2.1.2,<2.6"].severity == "warning"
    assert (
        found["pyzmq is not installed"].severity == "error" and "'pyzmq>=26,<28'" in found["pyzmq is not installed"].fix
    )
    assert "[mpi]" in found["mpi4py 3.1.6, expected >=4.1,<5"].means
    assert {each.name for each in packages.requirements()} >= {"numpy", "pyzmq", "cffi", "cupy-cuda12x"}


def test_a_python_without_packages(tmp_path: Path) -> None:
    """The doctor itself needs none of what it looks for."""
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from phalanx.cli import main; sys.exit(main(['doctor']))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(ROOT)], env={"PATH": str(tmp_path), "HOME": str(tmp_path)}, cwd=tmp_path,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 1, 2) and "exit code" in done.stdout


def test_a_question_that_hangs_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    ended = ask.run_to_end(["sh", "-c", "sleep 61 & sleep 61"], clean_environment(), deadline_s=0.3)
    assert ended.code is None and time.monotonic() - began < 5


def test_an_mpirun_that_hangs_or_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpi, "TRIAL_S", 0.5)
    library = {"library": "Open MPI", "kind": "Open MPI", "file": "/x/lib/libmpi.so.40"}
    for script, key, words in (
        ("#!/bin/sh\necho HYDRA; sleep 60\n", "mpirun-fails", "does not end within 0.5 s"),
        ("#!/bin/sh\necho HYDRA; echo no slots >&2; exit 7\n", "mpirun-fails", "ends with code 7"),
    ):
        fake = tmp_path / "mpirun"
        fake.write_text(script)
        fake.chmod(0o755)
        found = mpi._trial(HERE, mpi.Mpirun(str(fake), "MPICH"), library, [], True)
        assert found.key == key and words in found.found and found.severity == "error"
    fake.write_text("#!/bin/sh\necho something else\n")
    starters, findings = mpi._mpiruns(Surroundings({"PATH": str(tmp_path)}, python=str(tmp_path / "bin" / "python")))
    assert not starters and [f.key for f in findings] == ["mpirun-broken"]


# --- leftovers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Path]]:
    """Files and folders as killed jobs leave them; all but ``young`` are old."""
    shm, temporary = tmp_path / "shm", tmp_path / "tmp"
    shm.mkdir(), temporary.mkdir()
    names = {leftovers.TEMPORARY_NAMES: temporary, leftovers.SHM_NAMES: shm}
    monkeypatch.setattr(leftovers, "places", lambda: {place: patterns for patterns, place in names.items()})
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = socket.gethostname()
    paths = {
        "open mpi 5": shm / f"sm_segment.{host}.0.d43b0001.0",
        "open mpi 4": shm / f"vader_segment.{host}.0.c1230001.1",
        "mpich": shm / "mpich_shm_615b474_0",
        "mapped": shm / f"sm_segment.{host}.0.d43b0002.0",
        "open": shm / "mpich_shm_6b32c781_0",
        "young": shm / "mpich_shm_00000000_0",
        "elsewhere": shm / "sm_segment.another-host.0.d43b0001.0",
        "a user's": shm / "sm_segments.backup",
        "session": temporary / f"ompi.{dead.pid}" / "1" / "file",
        "living session": temporary / f"ompi.{os.getpid()}" / "1" / "file",
        "own": temporary / "phalanx-abcd_123" / f"ompi.{dead.pid}" / "file",
        "a user's folder": temporary / "phalanx-pictures" / "holiday.jpg",
    }
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 4096)
    for path in [p for p in [*shm.rglob("*"), *temporary.rglob("*")] if p != paths["young"]]:
        os.utime(path, (time.time() - 3600,) * 2)
    with paths["mapped"].open("r+b") as file, contextlib.closing(mmap.mmap(file.fileno(), 4096)), paths["open"].open():
        yield paths


def test_only_what_nobody_uses_is_swept(planted: dict[str, Path]) -> None:
    stays = {"mapped", "open", "young", "elsewhere", "a user's", "living session", "a user's folder"}
    report = {finding.key: finding for finding in main.leftovers.check(HERE)}
    assert report["leftovers"].found.startswith("5 left by killed MPI jobs, ")
    gone, failed = leftovers.sweep()
    assert not failed and len(gone) == 5
    assert {name for name, path in planted.items() if path.exists()} == stays
    why = {str(each.path.name): each.kept_because for each in leftovers.find()}
    assert why[planted["mapped"].name] == why[planted["open"].name] == "in use"
    assert "younger" in why[planted["young"].name] and "another-host" in why[planted["elsewhere"].name]
    assert why[f"ompi.{os.getpid()}"] == f"process {os.getpid()} lives"
    assert main.leftovers.check(HERE)[0].severity == "ok"


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user need root")
def test_files_of_others_stay(planted: dict[str, Path]) -> None:
    os.chown(planted["mpich"], 12345, 12345)
    gone, _ = leftovers.sweep()
    assert planted["mpich"].exists() and len(gone) == 4


# --- several ranks ----------------------------------------------------------------------------------------------------


def check_ranks(report: Report, size: int, folder_: Path) -> None:
    """Every pair was measured, the figures are sane, and nothing is left in the folder."""
    rows = report.answer["ranks"]["links"]["links"]
    assert sorted(tuple(row["ranks"]) for row in rows) == [(a, b) for a in range(size) for b in range(a + 1, size)]
    for row in rows:
        assert 1e-6 < row["latency_s"] < 0.5 and 1e6 < row["there_bytes_s"] < 1e12 and 1e6 < row["back_bytes_s"] < 1e12
    assert report["clock-offset"]["severity"] == "ok"
    assert all(abs(offset) < 0.5 for offset in report.answer["ranks"]["clock_offset_s"].values())
    assert sorted(report.answer["ranks"]["visible_after_s"]) == [str(rank) for rank in range(1, size)]
    assert report["folder"]["severity"] == "ok" and not list(folder_.iterdir())


@pytest.mark.parametrize(("how", "backend"), [([], "zmq"), pytest.param(["--mpi"], "mpi", marks=pytest.mark.whole)])
def test_four_ranks(how: list[str], backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "checkpoints").mkdir()
    command = [*DOCTOR[:3], "run", *how, "--no-prefix", "-n", "4", "-m", "phalanx", "doctor", "--json"]
    command += ["--checkpoint-dir", str(tmp_path / "checkpoints")]
    job = Job(command, extra={"TMPDIR": str(tmp_path)}).start()
    code, output = job.finish(150)
    assert output.count('"findings"') == 1, "one rank prints"
    report = Report(output[output.index("{\n") : output.rindex("\n}") + 2], code)
    assert (
        f"4 ranks on 1 host from {'mpirun (Open MPI)' if how else 'phalanx run'}, over {backend}"
        in report["ranks"]["found"]
    )
    check_ranks(report, 4, tmp_path / "checkpoints")
    kept = links.read(backend)
    assert len(kept) == 1 and kept[0].hosts == (socket.gethostname(),) * 4 and len(kept[0].links) == 6
    assert not links.read("none") and links.read(hosts=(socket.gethostname(),)) == kept
    assert not job.left_after(5)


@needs_hosts
def test_two_hosts_with_a_link_of_one_gigabit(tmp_path: Path) -> None:
    """Ranks 0 and 1 on one host, 2 and 3 on another: the link's rate is what is measured between them."""
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    with Hosts(2) as hosts:
        hosts.limit("1gbit")
        processes, job, meet = [], os.urandom(16).hex(), f"{hosts.address(0)}:{PORT}"
        for rank in range(4):
            told = RankEnvironment(rank, 4, rank % 2, 2, rank // 2, rendezvous=meet, job=job)
            environ = clean_environment(
                **env.write(told), XDG_CACHE_HOME=str(tmp_path / "cache"), OMP_NUM_THREADS="1", TMPDIR=str(tmp_path)
            )
            command = [*DOCTOR, "--json", "--checkpoint-dir", str(checkpoints)]
            processes.append(hosts.start(rank // 2, command, environ, tmp_path / f"{rank}.log"))
        codes = [process.wait(120) for process in processes]
    output = (tmp_path / "0.log").read_text()
    assert codes[1:] == [0, 0, 0] and '"findings"' in output, output
    report = Report(output, codes[0])
    check_ranks(report, 4, checkpoints)
    assert "4 ranks on 2 hosts" in report["ranks"]["found"]
    wires = {finding["hosts"][0]: finding["data"]["addresses"] for finding in report.all("interface-wire")}
    assert wires["h0"][0] == hosts.address(0) and wires["h1"][0] == hosts.address(1)
    rates: dict[bool, list[float]] = {True: [], False: []}
    for row in report.answer["ranks"]["links"]["links"]:
        assert row["hosts"] == [f"h{rank // 2}" for rank in row["ranks"]]
        rates[row["hosts"][0] == row["hosts"][1]].append(min(row["there_bytes_s"], row["back_bytes_s"]))
    assert len(rates[False]) == 4 and max(rates[False]) < 1.05 * 125e6 and max(rates[False]) < max(rates[True]), rates


STUCK = """
import os, sys, time
from phalanx.doctor import links, main
main.CHECKS = ()
main.blas.check = main.leftovers.check = lambda here: []
if os.environ["PHALANX_RANK"] == "1":
    links.measure = lambda comm, first, second: time.sleep(60)
sys.exit(main.doctor(main.Options(as_json=True, pair_s=1.0)))
"""


def test_a_rank_that_does_not_answer(tmp_path: Path) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    began = time.monotonic()
    job = Job([*DOCTOR[:3], "run", "--no-prefix", "-n", "2", str(script)], extra={"TMPDIR": str(tmp_path)}).start()
    code, output = job.finish(60)
    report = Report(output[output.index("{\n") : output.rindex("\n}") + 2], code)
    found = [finding for finding in report.all("ranks") if finding["severity"] == "error"]
    assert code == 2 and len(found) == 1 and "nothing came from rank 1" in found[0]["found"], output
    assert time.monotonic() - began < 25 and not job.left_after(5)


THREADS = """
import sys
from phalanx.doctor import main
main.CHECKS = ()
main.blas.check = main.leftovers.check = lambda here: []
sys.exit(main.doctor(main.Options(as_json=True)))
"""


def test_ranks_that_are_threads(tmp_path: Path) -> None:
    script = tmp_path / "threads.py"
    script.write_text(THREADS)
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    code, output = (
        Job([*DOCTOR[:3], "run", "--threads", "--no-prefix", "-n", "3", str(script)], extra=environ).start().finish(60)
    )
    assert output.count('"findings"') == 1, output
    report = Report(output[output.index("{\n") : output.rindex("\n}") + 2], code)
    assert (
        code == 0 and len(report.answer["ranks"]["links"]["links"]) == 3 and "over threads" in report["ranks"]["found"]
    )


def test_a_folder_that_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "DEADLINE_S", 0.05)
    assert folder.look(tmp_path, "never") is None
    report = ranks.RankReport(clocks={1: (0.0, 0.0), 2: (100.0, 0.0)})
    blind = ranks._visible(tmp_path, [5.0, None, 105.5], ["a", "b", "c"], report)
    assert blind.severity == "error" and blind.found.startswith("rank 1 (b) did not see")
    assert report.visible == {2: 0.5}, "the clock of rank 2 is 100 s ahead"
    late = ranks._visible(tmp_path, [5.0, 17.0, 105.5], ["a", "b", "c"], report)
    assert late.key == "folder-late" and "12.0000 s" in late.found
    written = folder.write(tmp_path, "seen")
    seen = folder.look(tmp_path, "seen")
    assert seen is not None and 0 <= seen - written < 5


def test_a_clock_that_is_wrong_and_a_link_that_is_slow() -> None:
    found = ranks._clocks({1: (0.01, 0.001), 2: (-40.0, 0.001)}, ["a", "b", "c"])
    assert found[0].severity == "warning" and "the clock of rank 2 (c) is 40.000000 s behind" in found[0].found
    rows = [
        links.Link((0, rank), ("a", f"h{rank}"), 1e-4, speed, 1e9) for rank, speed in ((1, 1e9), (2, 1e9), (3, 1e8))
    ]
    slow = ranks._slow_links(rows)
    assert len(slow) == 1 and slow[0].found.startswith("rank 0 (a) - rank 3 (h3): 100 MB/s")


@pytest.mark.parametrize("size", [2, 3, 4, 7, 12, 13, 16])
def test_each_pair_is_measured_once(size: int) -> None:
    steps = links.rounds(size)
    pairs = [pair for step in steps for pair in step]
    assert sorted(pairs) == [(a, b) for a in range(size) for b in range(a + 1, size)]
    assert all(len({rank for pair in step for rank in pair}) == 2 * len(step) for step in steps)


# --- the report -------------------------------------------------------------------------------------------------------


def test_findings_of_hosts_are_joined() -> None:
    same, other = Finding("a", "k", "ok", "equal"), Finding("a", "k", "note", "only here")
    rows = joined([("h0", same), ("h1", same), ("h1", other), ("h1", same)])
    assert [(f.found, f.hosts) for f in rows] == [("equal", ("h0", "h1")), ("only here", ("h1",))]
    assert worst(rows) == "note" and worst([]) == "ok"


def test_a_check_that_fails_is_a_finding() -> None:
    def check(here: Surroundings) -> list[Finding]:
        raise OSError("no such thing")

    found = main._safely(check, HERE)
    assert found[0].key == "check-failed" and "OSError: no such thing" in found[0].found


def test_a_file_of_links_that_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = [
        links.Measurement(float(i), "zmq", (f"h{i}",) * 2, (links.Link((0, 1), ("a", "b"), 1e-5, 1e9, 2e9),))
        for i in range(25)
    ]
    for each in measured:
        links.keep(each)
    assert links.read() == measured[:-21:-1], "the newest 20, newest first"
    for text in ("", "[]", '{"format": 1, "measurements": [{}]}', '{"format": 99, "measurements": []}'):
        links.file().write_text(text)
        assert links.read() == []
