"""Batch scripts: what they say, and what they do, with a stand-in for Slurm's commands."""

import os
import re
import subprocess
import sys

import pytest

from phalanx.cluster.hostlist import allocated_hosts, expand, host_file, tasks_per_node
from phalanx.cluster.slurm import SlurmJob
from phalanx.dist import env
from phalanx.dist.errors import LaunchError
from phalanx.launch.hosts import Host
from tests.launch.rig import environment, phalanx


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("node[01-03,7],gpu-[1-2]x", ["node01", "node02", "node03", "node7", "gpu-1x", "gpu-2x"]),
        ("r[1-2]n[09-10]", ["r1n09", "r1n10", "r2n09", "r2n10"]),
        ("a,b[3],c.example.org", ["a", "b3", "c.example.org"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
    ],
)
def test_host_lists(text, names):
    assert expand(text) == names


@pytest.mark.parametrize("text", ["n[1-2", "n1-2]", "n[[1]]", "n[2-1]", "n[a-b]", "n[]", "", "a,,b", "n[1-9999999]"])
def test_host_lists_that_slurm_would_refuse(text):
    with pytest.raises(LaunchError, match=r"host list"):
        expand(text)


def test_hosts_of_an_allocation_and_host_files():
    inside = {"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_TASKS_PER_NODE": "2(x2),1"}
    hosts = allocated_hosts(inside)
    assert hosts == [Host("n1", 2), Host("n2", 2), Host("n3", 1)]
    assert host_file(hosts, "openmpi") == "n1 slots=2\nn2 slots=2\nn3 slots=1\n"
    assert host_file(hosts, "plain") == "n1\nn1\nn2\nn2\nn3\n"
    assert tasks_per_node("4") == [4]
    with pytest.raises(LaunchError, match="not inside of a Slurm job"):
        allocated_hosts({})
    with pytest.raises(LaunchError, match="3 hosts, SLURM_TASKS_PER_NODE 2"):
        allocated_hosts(inside | {"SLURM_TASKS_PER_NODE": "1(x2)"})
    said = phalanx("slurm", "hosts", "--format", "mpich", **inside)
    assert said.stdout == "n1:2\nn2:2\nn3:1\n", said.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nodes": 0}, "--nodes 0: expected at least 1"),
        ({"tasks_per_node": 0}, "--ntasks-per-node 0"),
        ({"time": "1h"}, "--time '1h'"),
        ({"time": "1:30"}, "--warn 90 s before the end of --time 1:30 is before its beginning"),
        ({"array": "a-b"}, "--array 'a-b'"),
        ({"name": "a/b"}, "--job-name 'a/b'"),
        ({"mpi": "openmpi"}, "--mpi 'openmpi': expected one of none, pmix, pmi2"),
        ({"warn_s": 70000}, "--warn 70000"),
        ({"extra": ("exclusive",)}, "--sbatch 'exclusive'"),
        ({"environment": (("a b", ""),)}, "--env 'a b'"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(LaunchError, match=re.escape(words)):
        SlurmJob("train.py", **options)


def test_a_line_end_begins_no_directive():
    with pytest.raises(LaunchError, match="expected one line"):
        SlurmJob("train.py", partition="main\n#SBATCH --nodes=9").render()


def test_options_are_handed_on():
    given = {"nodes": 4, "tasks_per_node": 2, "time": "1-12", "array": "0-7%2", "cpus_per_task": 3, "gpus_per_node": 2}
    text = SlurmJob("train.py", name="run", extra=("--exclusive",), image="a b.sif", warn_s=120, **given).render()
    said = set(re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE))
    assert said >= {
        *("--nodes=4", "--ntasks-per-node=2", "--time=1-12", "--array=0-7%2", "--gpus-per-node=2", "--exclusive"),
        *("--requeue", "--signal=USR1@120", "--output=slurm-logs/%x-%A_%a.out", "--job-name=run"),
    }
    srun = next(line for line in text.splitlines() if line.strip().startswith("srun"))
    assert "--cpus-per-task=3" in srun and "apptainer exec --nv 'a b.sif' python3 -u train.py" in srun
    assert "#SBATCH --no-requeue" in SlurmJob("train.py", requeues=0).render()
    pmix = SlurmJob("train.py", mpi="pmix").render()
    assert "PMIX_SECURITY_MODE=native" in pmix and "PHALANX_RENDEZVOUS" not in pmix and "PHALANX_BACKEND=mpi" in pmix


# -- the script runs -------------------------------------------------------------------------------------------------

STANDINS = {
    # as many processes as SLURM_NTASKS, one after another; what follows srun's own options is the command
    "srun": """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
for ((rank = 0; rank < SLURM_NTASKS; rank++)); do SLURM_STEP_ID=0 SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" || code=$?; done
exit ${code:-0}
""",
    "scontrol": """#!/bin/bash
case "$1 $2" in
"show hostnames") echo here ;;
"show node") echo "NodeName=here NodeAddr=127.0.0.1 NodeHostName=here" ;;
requeue*) echo "requeue $2" >>"$CALLS"; exit 1 ;;
esac
""",
}
SCRIPT = """
import os, sys
names = ("JOB", "RENDEZVOUS", "RESUME", "STARTED_S", "RESTART", "STOP_CODE")
print(sys.argv[1:], *(f"{name}={os.environ.get('PHALANX_' + name)}" for name in names))
sys.exit(int(os.environ.get("CODE", "0")))
"""


@pytest.fixture
def batch(tmp_path):
    """Run a batch script as Slurm would; (exit code, lines, calls of scontrol requeue)."""
    binary = tmp_path / "bin"
    binary.mkdir()
    for name, text in STANDINS.items():
        (binary / name).write_text(text)
        (binary / name).chmod(0o755)
    (tmp_path / "script.py").write_text(SCRIPT)

    def run(job, **variables):
        calls = tmp_path / "calls"
        calls.write_text("")
        given = {
            "SLURM_JOB_ID": "41",
            "SLURM_JOB_NODELIST": "here",
            "SLURM_NTASKS": str(job.ranks),
            "CALLS": str(calls),
        }
        environ = environment(**(given | variables)) | {"PATH": f"{binary}:{os.environ['PATH']}"}
        done = subprocess.run(["bash"], input=job.render(), text=True, capture_output=True, env=environ, timeout=20)
        return done.returncode, done.stdout.splitlines(), calls.read_text().split()

    return run


def made(tmp_path, *arguments, **options):
    return SlurmJob("script.py", arguments, name="t", folder=str(tmp_path), python=sys.executable, **options)


def test_the_script_as_printed_starts_ranks_that_understand_it(batch, tmp_path):
    job = made(tmp_path, "--dir", "runs/{run}", "it's $HOME", "{task}", tasks_per_node=2)
    code, lines, calls = batch(job)
    assert (code, calls) == (0, []) and len(lines) == 2
    assert lines[0].startswith("""['--dir', 'runs/t-41', "it's $HOME", '0'] JOB=""") and "RESUME=None" in lines[0]
    secret, port = re.search(r"JOB=([0-9a-f]{32}) RENDEZVOUS=127.0.0.1:(\d+) ", lines[0]).groups()
    assert f"JOB={secret} RENDEZVOUS=127.0.0.1:{port} " in lines[1]
    inside = {
        "PHALANX_JOB": secret,
        "PHALANX_RENDEZVOUS": f"127.0.0.1:{port}",
        "PHALANX_SIZE": "2",
        "SLURM_NTASKS": "2",
    }
    place = {"SLURM_JOB_ID": "41", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
    found = env.read(inside | place)
    assert (found.rank, found.size, found.job, found.backend) == (1, 2, secret, "zmq")
    assert f"JOB={secret}" not in batch(job)[1][0]


def test_a_job_that_saved_is_requeued_and_goes_on(batch, tmp_path):
    job = made(tmp_path, "{run}")
    code, first, calls = batch(job, CODE="75")
    assert (code, calls) == (75, ["requeue", "41"])
    code, second, calls = batch(job, SLURM_RESTART_COUNT="1")
    assert (code, calls) == (0, []) and "RESUME=auto" in second[0] and "RESTART=1 " in second[0]
    began = re.compile(r"STARTED_S=(\d+)")
    assert began.search(first[0])[1] == began.search(second[0])[1]
    assert batch(made(tmp_path, requeues=1), CODE="75", SLURM_RESTART_COUNT="1")[2] == []
    assert batch(job, CODE="3")[::2] == (3, [])


def test_a_failure_is_started_anew_in_the_same_allocation(batch, tmp_path):
    code, lines, calls = batch(made(tmp_path, restarts=1), CODE="3")
    assert (code, calls) == (3, [])
    found = [re.search(r"RESUME=(\w+) .*RESTART=(\d)", line).groups() for line in lines]
    assert found == [("None", "0"), ("auto", "1")]
    assert len({re.search(r"JOB=(\w+)", line)[1] for line in lines}) == 2


def test_tasks_of_an_array_have_names_of_their_own(batch, tmp_path):
    inside = {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "3"}
    code, lines, _ = batch(made(tmp_path, "{run}", "--seed={task}", array="0-3"), **inside)
    assert code == 0 and lines[0].startswith("['t-40_3', '--seed=3']")


def test_the_command_line(tmp_path):
    printed = phalanx(
        "slurm", "submit", "--print", "--nodes", "2", "--setup", "module load x", "my train.py", "--lr", "1"
    )
    assert printed.returncode == 0 and "#SBATCH --job-name=my-train\n" in printed.stdout, printed.stderr
    assert "\nmodule load x\n" in printed.stdout and "-u 'my train.py' --lr 1\n" in printed.stdout
    missing = phalanx("slurm", "submit", "nowhere.py")
    assert missing.returncode == 2 and "nowhere.py: no such script" in missing.stderr
    (tmp_path / "train.py").touch()
    nothing = phalanx("slurm", "submit", "--folder", str(tmp_path), "train.py", PATH="/bin")
    assert nothing.returncode == 2 and "there is no sbatch on PATH" in nothing.stderr


def test_sbatch_is_asked_and_its_refusal_is_told(tmp_path):
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(
        '#!/bin/bash\ncat >"$0.got"\n[ -z "$REFUSE" ] || { echo "sbatch: error: no" >&2; exit 1; }\necho "17;lab"\n'
    )
    sbatch.chmod(0o755)
    (tmp_path / "train.py").touch()
    words = ("slurm", "submit", "--folder", str(tmp_path), "--nodes", "2", "train.py")
    path = f"{tmp_path}:{os.environ['PATH']}"
    said = phalanx(*words, PATH=path)
    assert said.stdout == "job 17: 2 ranks on 2 nodes, output in slurm-logs/train-17.out\n", said.stderr
    assert (tmp_path / "sbatch.got").read_text().startswith("#!/bin/bash\n#SBATCH --job-name=train\n")
    assert (tmp_path / "slurm-logs").is_dir()
    refused = phalanx(*words, PATH=path, REFUSE="1")
    assert refused.returncode == 2 and "sbatch refused the job: sbatch: error: no" in refused.stderr
