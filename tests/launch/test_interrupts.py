"""Ctrl-C at any moment of a rank's life, from its first import to the interpreter's end: one line, and never a traceback.

A rank of ``phalanx run`` interrupts itself where it is told to (``interrupted_job``), or its launcher gets the signal while the
ranks start. What may be lost or postponed in small is in scripts that need no training.
"""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phalanx.dist import interrupt
from tests.launch.rig import PHALANX, ROOT, environment, started

JOB = str(Path(__file__).with_name("interrupted_job.py"))
MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}  # fmt: skip
RUN = (*PHALANX, "run", "--tee", "all")
WAYS = {
    "zmq": (*RUN, "-n", "2"),
    "one": (*RUN, "-n", "1"),
    "threads": (*RUN, "--threads", "-n", "2"),
    "mpi": (*RUN, "--mpi", "-n", "2"),
    "mpirun": (str(Path(sys.executable).parent / "mpirun"), "-n", "2", sys.executable),
    "alone": (sys.executable,),
}
PHASES = {"import": 400_000, "init": 700_000, "build": 800_000, "train": 60_000, "save": 3_000, "end": 1_500}
"""Phase of the job -> about how many calls and returns it takes; printed by ``interrupted_job FOLDER never 0``."""
ENDS_S = 10.0
QUICK = [("zmq", "train", 31_000, "1"), ("one", "end", 40, "")]


def planned(seed: int) -> tuple[str, str, int, str]:
    """(way, phase, N, the only rank or all): as often in each phase, in its first calls and in all of them."""
    draw = random.Random(seed)
    way = draw.choice(["zmq", "zmq", "one", "mpi", "mpirun", "alone"])
    phase = draw.choice(list(PHASES))
    at = int(PHASES[phase] ** draw.uniform(0.2, 1.0))
    return way, phase, at, "" if way in ("one", "alone") else draw.choice(["", "0", "1"])


@pytest.mark.parametrize(
    "plan",
    [*QUICK, *(pytest.param(planned(seed), marks=pytest.mark.whole) for seed in range(120))],
    ids=lambda plan: "-".join(map(str, plan)),
)
def test_a_rank_ends_in_order_wherever_it_is_interrupted(plan: tuple[str, str, int, str], tmp_path: Path) -> None:
    way, phase, at, only = plan
    temporary = tmp_path / "t"
    temporary.mkdir()
    words = (JOB, str(tmp_path), phase, str(at), *([only] if only else []))
    with started(*WAYS[way], *words, TMPDIR=str(temporary), **MPI) as job:
        _, err = job.popen.communicate(timeout=40)
        assert job.left_after(ENDS_S) == [], err
    where = "; ".join(f"{path.name}: {path.read_text()}" for path in tmp_path.glob("planted-*"))
    assert where or phase in ("save", "end"), "the signal was not raised"
    at_end = phase in ("train", "save", "end")
    assert job.popen.returncode in ((0, 130, -2) if at_end or not where else (130, -2)), (where, err)
    if way != "alone":
        assert "Traceback" not in err and "Exception ignored" not in err, (where, err)
        assert err.count("stops: interrupted") <= (1 if only or way == "one" else 2), err
    assert [path.name for path in temporary.iterdir() if not path.name.startswith("phalanx-compiling")] == []


def before_our_first_line(err: str) -> bool:
    """Is this what the interpreter says of an interrupt while it imports its own modules, when nobody can have brought it a handler?"""
    frames = [Path(name) for name in re.findall(r'File "([^"]+)", line', err)]
    ours = [path for path in frames if path.is_relative_to(ROOT) and not path.is_relative_to(sys.prefix)]
    return err.startswith(("Traceback", "Fatal Python error: init_import_site")) and bool(frames) and not ours


@pytest.mark.parametrize(
    ("way", "after_s"),
    [("zmq", 0.3)]
    + [pytest.param(way, k / 20, marks=pytest.mark.whole) for way in ("zmq", "mpi", "threads") for k in range(32)],
)
def test_the_launcher_is_interrupted_while_ranks_start(way: str, after_s: float, tmp_path: Path) -> None:
    for later in range(20):  # a moment that only the interpreter could answer is tried again, a little later
        with started(*WAYS[way], JOB, str(tmp_path), "never", "0", **MPI) as job:
            time.sleep(after_s + 0.02 * later)
            job.popen.send_signal(signal.SIGINT)
            _, err = job.popen.communicate(timeout=20)
            assert job.left_after(1.0) == [], err
        if not before_our_first_line(err):
            break
    assert job.popen.returncode in (130, -2, 0), err
    assert "Traceback" not in err and "KeyboardInterrupt" not in err and "Exception ignored" not in err, err


INTERRUPTING = """
import os, signal, sys
class Interrupting:
    def find_spec(name, path, target=None):
        if name == where:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting)
"""
COMMAND = f"""
import runpy, sys
where = sys.argv.pop(1)
{INTERRUPTING}
runpy.run_module("phalanx", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("module", "code"), [("phalanx.cli", -2), ("phalanx.launch.run", -2), ("phalanx.ops_table", 130)]
)
def test_a_command_ends_without_a_word(module: str, code: int) -> None:
    """While it is imported, and while it runs."""
    command = [sys.executable, "-c", COMMAND, module, "ops"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize("module", ["phalanx.__main__", "phalanx.cli"])
def test_python_m_ends_without_a_word_from_the_package_s_first_lines_on(module: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"where = {module!r}\n{INTERRUPTING}")
    environ = environment(PYTHONPATH=f"{tmp_path}:{ROOT}")
    done = subprocess.run([*PHALANX, "ops"], env=environ, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-2, "", "")


def test_a_command_that_was_started_to_ignore_interrupts_does(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"where = 'phalanx.cli'\n{INTERRUPTING}")
    command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *PHALANX, "--version"]
    environ = environment(PYTHONPATH=f"{tmp_path}:{ROOT}")
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout[:8], done.stderr) == (0, "phalanx ", "")


def test_who_imports_phalanx_keeps_python_s_answer() -> None:
    script = "import phalanx, signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    command = [sys.executable, "-c", script, "-m", "phalanx"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")


WITHOUT = """
import time
print("ready", flush=True)
time.sleep(30)
"""
ITS_OWN = """
import time, phalanx
phalanx.init()
print("ready", flush=True)
try:
    time.sleep(30)
except KeyboardInterrupt:
    print("saved by the script", flush=True)
"""


@pytest.mark.parametrize(
    ("script", "printed"), [(WITHOUT, 0), (ITS_OWN, 2)], ids=["no phalanx in it", "its own answer"]
)
def test_what_a_script_makes_of_it(script: str, printed: int, tmp_path: Path) -> None:
    """One that has not imported phalanx (yet) ends without a word."""
    (tmp_path / "script.py").write_text(script)
    with started(*RUN, "--no-prefix", "-n", "2", str(tmp_path / "script.py")) as job:
        seen = job.until("ready", 1)
        time.sleep(0.2)
        job.popen.send_signal(signal.SIGINT)
        out, err = job.popen.communicate(timeout=10)
    assert job.popen.returncode == 130
    assert min(1, printed) <= (seen + out).count("saved by the script") <= printed  # equal lines are printed once
    assert "Traceback" not in err and "KeyboardInterrupt" not in err, err


DESTRUCTOR = """
import time, phalanx
class Slow:
    def __del__(self):
        raise_now()
        print("destroyed", flush=True)
def outer():
    slow = Slow()
outer()
time.sleep(10)
"""
CALLBACK = """
import ctypes, time, phalanx
called = ctypes.CFUNCTYPE(None)(lambda: raise_now())
called()
time.sleep(10)
"""
CAUGHT = """
import phalanx, sys
try:
    raise_now()
    print("lost")
except KeyboardInterrupt:
    sys.exit(5)
"""
AT_EXIT = """
import atexit, phalanx
@atexit.register
def leave():
    raise_now()
    print("left in order", flush=True)
"""
THREADS_END = """
import threading, time, phalanx
def work():
    time.sleep(0.2)
    raise_now()
    time.sleep(0.2)
    print("left in order", flush=True)
threading.Thread(target=work).start()
"""
IMPORT = """
import phalanx, pathlib, sys
folder = pathlib.Path(sys.argv[1])
(folder / "whole.py").write_text("import builtins; builtins.raise_now(); print('imported', flush=True)")
sys.path.insert(0, str(folder))
import whole, time
time.sleep(10)
"""
COMPILING = """
import phalanx, time
inside = {"__name__": "numba.core.inside", "raise_now": raise_now}
exec("def compile_it(): raise_now(); print('compiled', flush=True)", inside)
inside["compile_it"]()
time.sleep(10)
"""
OWN_HANDLER = """
import signal, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit(7))
import phalanx
raise_now()
"""
AN_ERROR = """
import phalanx
phalanx.init()
raise ValueError("as ever")
"""
TELLING = "rank 0 of 1 stops: interrupted\n"
SMALL = {
    "destructor": (DESTRUCTOR, -2, "destroyed\n", TELLING),
    "callback of C": (CALLBACK, -2, "", TELLING),
    "caught by the script": (CAUGHT, 5, "", ""),
    "function of atexit": (AT_EXIT, 0, "left in order\n", ""),
    "a thread that is waited for": (THREADS_END, 0, "left in order\n", ""),
    "import": (IMPORT, -2, "imported\n", TELLING),
    "compilation": (COMPILING, -2, "compiled\n", TELLING),
    "a handler of the script's": (OWN_HANDLER, 7, "", ""),
    "no interrupt": (AN_ERROR, 1, "", "ValueError: as ever"),
}


@pytest.mark.parametrize("case", SMALL)
def test_where_it_comes(case: str, tmp_path: Path) -> None:
    script, code, out, err = SMALL[case]
    raising = "import builtins, signal, os\nbuiltins.raise_now = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
    environ = environment(PHALANX_LAUNCHED="1", PHALANX_RANK="0", PHALANX_SIZE="1")
    began = time.monotonic()
    command = [sys.executable, "-c", raising + script, str(tmp_path)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (code, out), done.stderr
    assert done.stderr.endswith(f"{err}\n") if case == "no interrupt" else done.stderr == err
    assert time.monotonic() - began < 8


def test_who_waits_for_an_end_in_vain_may_hurry_it() -> None:
    script = "import atexit, time, phalanx\natexit.register(time.sleep, 20)\nprint('ready', flush=True)"
    environ = environment(PHALANX_LAUNCHED="1", PHALANX_RANK="0", PHALANX_SIZE="1")
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as it:
        assert it.stdout is not None and it.stderr is not None
        it.stdout.readline()
        time.sleep(0.2)
        for _ in range(2):
            it.send_signal(signal.SIGINT)
            time.sleep(interrupt.IMPATIENT_S + 0.1)
        assert it.wait(5) == -2 and it.stderr.read() == b""


def test_the_launcher_knows_who_answers() -> None:
    """By the mark, which what a rank starts does not inherit."""
    ask = "from phalanx.dist import interrupt; print(interrupt.answers(open('/proc/self/status').read()), flush=True)"
    then = (
        f"import os, sys; del os.environ['PHALANX_LAUNCHED']; os.execv(sys.executable, [sys.executable, '-c', {ask!r}])"
    )
    environ = environment(PHALANX_LAUNCHED="1")
    command = [sys.executable, "-c", f"{ask}\n{then}"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.split() == ["True", "False"]
    assert not interrupt.answers("")
