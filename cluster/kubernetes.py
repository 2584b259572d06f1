"""Kubernetes: manifests from what a user asks for. Nothing is sent anywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..dist.errors import LaunchError
from ..launch.mpirun import OPEN_MPI
from .rendering import counted, fill, one_line, scalar, template
from .slurm import STOP_CODE

KINDS = ("job", "jobset", "mpijob")
IMPLEMENTATIONS = {"openmpi": "OpenMPI", "mpich": "MPICH"}
PORT = 29500
HOST_FILE = "/etc/mpi/hostfile"
"""Where the MPI operator puts it."""

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,40}[a-z0-9])?")
_QUANTITY = re.compile(r"\d+(\.\d+)?([numkKMGTPE]i?)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WAIT = 'until getent hosts "$0" >/dev/null; do sleep 1; done; exec "$@"'
"""A pod's name is known a moment after the pod runs; then the shell becomes the ranks' launcher, which gets the signals."""
_SAVE_FIRST = "kill -USR1 1; while kill -0 1 2>/dev/null; do sleep 1; done"


@dataclass(frozen=True, slots=True)
class KubernetesJob:
    """What the user asked for; :meth:`render` gives the manifest."""

    script: str
    image: str
    arguments: tuple[str, ...] = ()
    kind: str = "job"
    name: str = "phalanx"
    module: bool = False
    pods: int = 1
    ranks_per_pod: int = 1
    secret: str = ""
    """The ranks' secret, written into a Secret of the manifest (not for ``mpijob``)."""
    secret_name: str | None = None
    """A Secret that exists, with the key ``job``, instead."""
    began_s: float = 0.0
    """Seconds since 1970: checkpoints that are older belong to other jobs."""
    claim: str | None = None
    """A PersistentVolumeClaim that all pods can write (ReadWriteMany)."""
    mount: str = "/checkpoints"
    folder: str | None = None
    """Where the script runs in the image."""
    cpu: str | None = None
    memory: str | None = None
    gpus: int = 0
    """Of each pod, as ``nvidia.com/gpu``."""
    shared_memory: str = "1Gi"
    grace_s: int = 120
    """From the signal to make room until a pod is killed."""
    restarts: int = 3
    priority_class: str | None = None
    mpi: str = "openmpi"
    """Which MPI the image has, for ``mpijob``."""
    python: str = "python3"
    environment: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise LaunchError(f"--kind {self.kind!r}: expected one of {', '.join(KINDS)}")
        if self.mpi not in IMPLEMENTATIONS:
            raise LaunchError(f"--mpi {self.mpi!r}: expected one of {', '.join(IMPLEMENTATIONS)}")
        for option, name in (("--name", self.name), ("--secret", self.secret_name), ("--claim", self.claim)):
            if name is not None and not _NAME.fullmatch(name):
                raise LaunchError(
                    f"{option} {name!r}: expected at most 42 small letters, digits and '-', a letter first"
                )
        whole = {"--pods": (self.pods, 1), "--ranks-per-pod": (self.ranks_per_pod, 1), "--gpus": (self.gpus, 0)}
        for option, (value, least) in (
            whole | {"--grace": (self.grace_s, 1), "--restarts": (self.restarts, 0)}
        ).items():
            if value < least:
                raise LaunchError(f"{option} {value}: expected at least {least}")
        for option, size in (("--cpu", self.cpu), ("--memory", self.memory), ("--shared-memory", self.shared_memory)):
            if size is not None and not _QUANTITY.fullmatch(size):
                raise LaunchError(f"{option} {size!r}: expected an amount like 4, 500m or 16Gi")
        for name, _ in self.environment:
            if not _VARIABLE.fullmatch(name):
                raise LaunchError(f"--env {name!r}: expected NAME=VALUE")
        one_line("--image", self.image)

    @property
    def ranks(self) -> int:
        return self.pods * self.ranks_per_pod

    def render(self) -> str:
        """The manifest."""
        return self._mpijob() if self.kind == "mpijob" else self._indexed()

    # -- pods that find each other -----------------------------------------------------------------------------------

    def _indexed(self) -> str:
        is_set = self.kind == "jobset"
        first = f"{self.name}-ranks-0-0.{self.name}" if is_set else f"{self.name}-0.{self.name}"
        secret = self.secret_name or f"{self.name}-secret"
        environment = [*self._common(), _from_secret("SECRET" if is_set else "PHALANX_JOB", secret)]
        if is_set:  # pods of one start do not meet those of another
            environment.append(_from_field("ATTEMPT", "metadata.annotations['jobset.sigs.k8s.io/restart-attempt']"))
            environment.append("  - name: PHALANX_JOB\n    value: $(SECRET)-$(ATTEMPT)")
        values = {
            "name": self.name,
            "size": f"{counted(self.ranks, 'rank')} in {counted(self.pods, 'pod')}",
            "pods": str(self.pods),
            "stop_code": str(STOP_CODE),
            "restarts": str(self.restarts),
            "failures": str(self.restarts * self.pods),  # when one pod fails the ranks of the others end, too
            "secret": self._secret(secret),
            "pod": self._pod(self._launch(first), environment, subdomain="" if is_set else f"subdomain: {self.name}"),
        }
        return fill(template(f"{self.kind}.yaml"), **values)

    def _launch(self, first: str) -> list[str]:
        run = [self.python, "-m", "phalanx", "run", "-n", str(self.ranks), "--grace", str(max(1, self.grace_s - 15))]
        if self.pods > 1:
            run += [
                "--nodes",
                str(self.pods),
                "--node-rank",
                "$(JOB_COMPLETION_INDEX)",
                "--rendezvous",
                f"{first}:{PORT}",
            ]
        run += self._script()
        return ["/bin/sh", "-c", _WAIT, first, *run] if self.pods > 1 else run

    def _script(self) -> list[str]:
        words = [*(["-m"] if self.module else []), self.script, *self.arguments]
        return [_literal(word) for word in words]

    def _secret(self, name: str) -> str:
        if self.secret_name is not None:
            return ""
        return fill(template("secret.yaml"), secret=name, value=scalar(self.secret)).rstrip("\n")

    # -- mpirun ------------------------------------------------------------------------------------------------------

    def _mpijob(self) -> str:
        variables = {name: value for name, value in OPEN_MPI.items() if self.mpi == "openmpi"}
        common = [_variable(name, value) for name, value in variables.items()] + self._common()
        lifecycle = "lifecycle:\n  preStop:\n    exec:\n      command: " + scalar(["/bin/sh", "-c", _SAVE_FIRST])
        mpirun = ["mpirun", "-n", str(self.ranks)]
        if self.mpi == "openmpi":
            # the operator tells Open MPI 4 where its hosts are, in a variable that Open MPI 5 does not read
            passed = [*dict(self.environment), *(name for name, _ in self._words())]
            mpirun += ["--hostfile", HOST_FILE, *(word for name in passed for word in ("-x", name))]
        return fill(
            template("mpijob.yaml"),
            name=self.name,
            size=f"{counted(self.ranks, 'rank')} on {counted(self.pods, 'worker')}",
            pods=str(self.pods),
            slots=str(self.ranks_per_pod),
            implementation=IMPLEMENTATIONS[self.mpi],
            restarts=str(self.restarts),
            launcher=self._pod(
                [*mpirun, self.python, "-u", *self._script()], common, "launcher", lifecycle, heavy=False
            ),
            worker=self._pod(["/usr/sbin/sshd", "-De"], [], "worker"),
        )

    # -- what all have -----------------------------------------------------------------------------------------------

    def _words(self) -> list[tuple[str, str]]:
        """The variables of every rank: a pod is always a continuation, if there is something to go on from."""
        return [
            ("PHALANX_STOP_CODE", str(STOP_CODE)),
            ("PHALANX_RESUME", "auto"),
            ("PHALANX_STARTED_S", f"{self.began_s:.0f}"),
        ]

    def _common(self) -> list[str]:
        return [_variable(name, value) for name, value in (*self._words(), *self.environment)]

    def _pod(
        self,
        command: list[str],
        environment: list[str],
        container: str = "ranks",
        lifecycle: str = "",
        *,
        subdomain: str = "",
        heavy: bool = True,
    ) -> str:
        return fill(
            template("pod.yaml"),
            name=self.name,
            subdomain=subdomain,
            grace=str(self.grace_s),
            priority=f"priorityClassName: {scalar(self.priority_class)}" if self.priority_class else "",
            container=container,
            image=scalar(self.image),
            folder=f"workingDir: {scalar(self.folder)}" if self.folder else "",
            command="\n".join(f"- {scalar(word)}" for word in command),
            environment="\n".join(["env:", *environment]) if environment else "",
            lifecycle=lifecycle,
            resources=self._resources() if heavy else "",
            mount=f"- name: checkpoints\n  mountPath: {scalar(self.mount)}" if self.claim else "",
            shared_memory=scalar(self.shared_memory),
            claim=f"- name: checkpoints\n  persistentVolumeClaim:\n    claimName: {self.claim}" if self.claim else "",
        ).rstrip("\n")

    def _resources(self) -> str:
        wanted = {"cpu": self.cpu, "memory": self.memory}
        requests = {name: value for name, value in wanted.items() if value is not None}
        # cores above the request may be used when they are idle; memory and GPUs cannot be shared so
        limits = {"memory": self.memory} if self.memory else {}
        gpus = {"nvidia.com/gpu": self.gpus} if self.gpus else {}
        parts = [
            f"  {what}: {scalar(values)}"
            for what, values in (("requests", requests), ("limits", limits | gpus))
            if values
        ]
        return "\n".join(["resources:", *parts]) if parts else ""


def _literal(word: str) -> str:
    """Without ``$(NAME)``, in whose place Kubernetes would put a variable."""
    return word.replace("$(", "$$(")


def _variable(name: str, value: str) -> str:
    return f"  - name: {name}\n    value: {scalar(_literal(value))}"


def _from_secret(name: str, secret: str) -> str:
    return f"  - name: {name}\n    valueFrom:\n      secretKeyRef:\n        name: {secret}\n        key: job"


def _from_field(name: str, path: str) -> str:
    return f"  - name: {name}\n    valueFrom:\n      fieldRef:\n        fieldPath: {scalar(path)}"
