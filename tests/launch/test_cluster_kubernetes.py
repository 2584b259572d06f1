"""Manifests: valid by Kubernetes' own schemas, what they say, and pods that run as written, on hosts of one machine."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from phalanx.cluster.kubernetes import KINDS, KubernetesJob
from phalanx.dist.errors import LaunchError
from tests.hosts import Hosts, needs_hosts
from tests.jobs import EXAMPLE, last_checkpoint, ledger
from tests.launch.rig import environment, phalanx, train_as_a_host_would
from tests.launch.schema_check import faults

FULL = {
    "claim": "ckpt",
    "folder": "/app",
    "cpu": "4",
    "memory": "16Gi",
    "gpus": 2,
    "priority_class": "low",
    "environment": (("LR", 'a "b" $(c): #'),),
}


def job(kind="job", **options):
    given = {"script": "train.py", "image": "reg/phalanx:1", "pods": 4, "ranks_per_pod": 2, "secret": "5" * 32}
    return KubernetesJob(kind=kind, **(given | options))


def manifests(*arguments, **options):
    return [part for part in yaml.safe_load_all(job(*arguments, **options).render()) if part]


def container(manifest, kind="job"):
    spec = manifest["spec"]
    if kind == "jobset":
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    return spec["template"]["spec"]["containers"][0]


@pytest.mark.parametrize(
    "options", [{}, FULL, {"pods": 1, "module": True, "secret_name": "mine"}], ids=["short", "full", "one pod"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_manifests_are_valid(kind, options):
    parts = manifests(kind, **options)
    assert [fault for part in parts for fault in faults(part)] == []
    assert parts[-1]["kind"] == {"job": "Job", "jobset": "JobSet", "mpijob": "MPIJob"}[kind]


PLANTED = {
    "job": [(("spec",), "completion", 4), (("spec",), "completions", "four"), (("spec", "template", "spec"), "volume", []),
            (("spec", "template", "spec", "containers", 0), "env", [{"nam": "x"}]), (("metadata",), "labels", {"a": 1})],
    "jobset": [(("spec",), "maxRestarts", 1), (("spec", "failurePolicy"), "maxRestart", 1), (("spec", "network"), "subdomain", 3),
               (("spec", "replicatedJobs", 0, "template", "spec"), "paralelism", 2),
               (("spec", "failurePolicy", "rules", 0), "action", "Restart")],
    "mpijob": [(("spec",), "slotsPerWorkers", 2), (("spec",), "slotsPerWorker", "2"), (("spec", "runPolicy"), "cleanPodPolicy", "Some"),
               (("spec", "mpiReplicaSpecs"), "Workers", {}), (("spec", "mpiReplicaSpecs", "Worker", "template", "spec"), "hostnam", "x")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "at", "name", "value"), [(kind, *planted) for kind, list_ in PLANTED.items() for planted in list_]
)
def test_a_planted_wrong_field_is_found(kind, at, name, value):
    wrong = copy.deepcopy(manifests(kind)[-1])
    place = wrong
    for step in at:
        place = place[step]
    place[name] = value
    assert any(name in fault or str(value) in fault for fault in faults(wrong)), (at, name)


def test_pods_are_told_who_they_are():
    secret, service, made = manifests(**FULL)
    assert secret["stringData"] == {"job": "5" * 32}
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": made["metadata"]["name"]}
    pod = made["spec"]["template"]["spec"]
    command = " ".join(container(made)["command"])
    assert "-n 8" in command and "--nodes 4 --node-rank $(JOB_COMPLETION_INDEX)" in command
    assert (
        f"--rendezvous phalanx-0.{pod['subdomain']}:29500" in command
        and pod["subdomain"] == service["metadata"]["name"]
    )
    told = {entry["name"]: entry.get("value") for entry in container(made)["env"]}
    assert told["PHALANX_RESUME"] == "auto" and told["LR"] == 'a "b" $$(c): #'
    code = int(told["PHALANX_STOP_CODE"])
    ignored = [rule for rule in made["spec"]["podFailurePolicy"]["rules"] if rule["action"] == "Ignore"]
    assert [rule["onExitCodes"]["values"] for rule in ignored if "onExitCodes" in rule] == [[code]]
    assert pod["volumes"][-1]["persistentVolumeClaim"] == {"claimName": "ckpt"}
    assert pod["terminationGracePeriodSeconds"] > int(re.search(r"--grace (\d+)", command)[1])


def test_a_jobset_gives_each_start_another_secret_and_a_secret_may_exist_already():
    made = manifests("jobset", secret_name="mine")
    assert [part["kind"] for part in made] == ["JobSet"]
    told = {entry["name"]: entry for entry in container(made[0], "jobset")["env"]}
    assert told["SECRET"]["valueFrom"]["secretKeyRef"] == {"name": "mine", "key": "job"}
    assert told["PHALANX_JOB"]["value"] == "$(SECRET)-$(ATTEMPT)"
    assert list(told).index("PHALANX_JOB") > list(told).index("ATTEMPT")  # Kubernetes looks backwards only


def test_mpirun_of_open_mpi_5_is_told_what_the_operator_tells_open_mpi_4():
    (made,) = manifests("mpijob", **FULL)
    launcher = made["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
    assert launcher["command"][:5] == ["mpirun", "-n", "8", "--hostfile", "/etc/mpi/hostfile"]
    assert "kill -USR1 1" in launcher["lifecycle"]["preStop"]["exec"]["command"][-1]
    passed = {launcher["command"][at + 1] for at, word in enumerate(launcher["command"]) if word == "-x"}
    assert passed == {"LR", "PHALANX_STOP_CODE", "PHALANX_RESUME", "PHALANX_STARTED_S"}
    (other,) = manifests("mpijob", mpi="mpich")
    assert other["spec"]["mpiImplementation"] == "MPICH"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "pod"}, "--kind 'pod': expected one of job, jobset, mpijob"),
        ({"pods": 0}, "--pods 0: expected at least 1"),
        ({"name": "Train_1"}, "--name 'Train_1'"),
        ({"claim": "a b"}, "--claim 'a b'"),
        ({"memory": "16 GB"}, "--memory '16 GB': expected an amount"),
        ({"environment": (("A-B", "1"),)}, "--env 'A-B'"),
        ({"image": "a\nb"}, "--image 'a\\nb': expected one line"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(LaunchError, match=re.escape(words)):
        job(**options)


def test_the_command_line():
    made = phalanx("k8s", "render", "--image", "i", "--pods", "2", "--env", "A=b", "My_Train.py", "--lr", "1")
    assert made.returncode == 0, made.stderr
    assert [faults(part) for part in yaml.safe_load_all(made.stdout)] == [[], [], []]
    assert "name: my-train\n" in made.stdout and '- "--lr"' in made.stdout
    wrong = phalanx("k8s", "render", "--image", "i", "--env", "A", "x.py")
    assert wrong.returncode == 2 and "phalanx k8s render: --env 'A': expected NAME=VALUE" in wrong.stderr
    assert "--image" in phalanx("k8s", "render", "x.py").stderr


# -- pods that run ---------------------------------------------------------------------------------------------------

OPTIONS = (
    "--model",
    "mlp",
    "--shards",
    "4",
    "--epochs",
    "1",
    "--samples",
    "1920",
    "--test-samples",
    "64",
    "--max-steps",
    "30",
)


def start_pods(hosts, folder, made, secret):
    """The containers' commands as kubelets would start them, one on each host."""
    processes = []
    for index, _ in enumerate(hosts.names):
        told = {"JOB_COMPLETION_INDEX": str(index)}
        for entry in container(made)["env"]:
            told[entry["name"]] = entry.get("value", secret)
        command = [word.replace("$(JOB_COMPLETION_INDEX)", str(index)) for word in container(made)["command"]]
        processes.append(hosts.start(index, command, environment(**told), folder / f"pod-{index}.log"))
    return processes


@needs_hosts
@pytest.mark.whole
def test_pods_run_save_when_told_to_make_room_and_go_on(tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    train_as_a_host_would(alone, *OPTIONS)
    places = ("--ledger", str(tmp_path / "ledger"), "--checkpoint-dir", str(tmp_path / "checkpoints"))
    python = sys.executable
    secret, _, made = manifests(
        pods=2,
        script=EXAMPLE,
        arguments=(*OPTIONS, *places),
        name="t",
        python=python,
        environment=(("PYTHONUNBUFFERED", "1"),),
    )
    with Hosts(2) as hosts:
        for number, _ in enumerate(hosts.names):  # the cluster's name service
            with Path("/etc/netns", hosts.namespace(number), "hosts").open("a") as names:
                names.write(f"{hosts.address(0)} t-0.t\n")
        pods = start_pods(hosts, tmp_path, made, secret["stringData"]["job"])
        wait_for_steps(tmp_path, 3, pods)
        pods[1].terminate()  # one pod is told to make room: all ranks save
        assert [pod.wait(60) for pod in pods] == [75, 75], log(tmp_path)
        pods = start_pods(hosts, tmp_path, made, secret["stringData"]["job"])
        assert [pod.wait(90) for pod in pods] == [0, 0], log(tmp_path)
    assert "resumed from step" in log(tmp_path)
    assert ledger(tmp_path) == ledger(alone)
    assert last_checkpoint(tmp_path, 30) == last_checkpoint(alone, 30)


def wait_for_steps(folder, steps, pods):
    for _ in range(600):
        if (folder / "ledger").exists() and len(ledger(folder)) >= steps:
            return
        try:
            pods[0].wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError(log(folder))


def log(folder):
    return "\n".join(path.read_text() for path in sorted(folder.glob("pod-*.log")))
