"""``phalanx k8s``: manifests for Kubernetes."""

from __future__ import annotations

import argparse
import re
import secrets
import time
from pathlib import Path
from typing import Any

from .cluster.kubernetes import IMPLEMENTATIONS, KINDS, KubernetesJob
from .slurm_command import pairs


def add_k8s(commands: Any) -> None:
    """The command's arguments."""
    parser = commands.add_parser("k8s", help="render manifests for Kubernetes")
    parser.set_defaults(name="k8s")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    render = actions.add_parser(
        "render",
        help="print a manifest for kubectl apply -f -",
        description="Print a manifest: a Job with named pods (nothing else is needed), a JobSet, or an MPIJob of Kubeflow's operator. "
        "It holds the ranks' secret unless --secret names one that exists: keep it as you keep passwords.",
        usage="phalanx k8s render [options] --image IMAGE script [arguments ...]",
    )
    add = render.add_argument
    add("--kind", choices=KINDS, default="job", help="job (default), jobset or mpijob")
    add("--image", required=True, metavar="IMAGE", help="container image with phalanx and the script in it")
    add("--name", dest="job_name", metavar="NAME", help="default: the script's name")
    add("--pods", type=int, default=1, metavar="N", help="number of pods (default 1)")
    add("--ranks-per-pod", type=int, default=1, metavar="N", help="ranks of each pod (default 1)")
    add("--claim", metavar="NAME", help="PersistentVolumeClaim for checkpoints that all pods can write")
    add("--mount", default="/checkpoints", metavar="DIR", help="where pods see it (default /checkpoints)")
    add("--folder", metavar="DIR", help="where the script runs, in the image")
    add("--cpu", metavar="N", help="cores that a pod asks for")
    add("--memory", metavar="SIZE", help="memory of a pod, for example 16Gi")
    add("--gpus", type=int, default=0, metavar="N", help="GPUs of a pod (nvidia.com/gpu)")
    add("--shared-memory", default="1Gi", metavar="SIZE", help="/dev/shm of a pod (default 1Gi)")
    add("--grace", type=int, default=120, metavar="S", help="seconds to save before a pod is killed (default 120)")
    add(
        "--restarts",
        type=int,
        default=3,
        metavar="K",
        help="how often the job is started anew after failures (default 3)",
    )
    add("--priority-class", metavar="NAME", help="the pods' priority class")
    add("--secret", metavar="NAME", help="a Secret that exists, whose key `job` is the ranks' secret")
    add(
        "--mpi",
        choices=tuple(IMPLEMENTATIONS),
        default="openmpi",
        help="MPI in the image, for mpijob (default openmpi)",
    )
    add("--python", default="python3", metavar="PATH", help="Python in the image (default python3)")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable of the ranks; may be repeated")
    add("-m", "--module", action="store_true", help="the script is a module's name, as in python -m")
    add("script", help="path of the script in the image")
    add("arguments", nargs=argparse.REMAINDER, help="what the script gets").required = False
    render.set_defaults(call=_render, name="k8s render")


def job_from(options: argparse.Namespace) -> KubernetesJob:
    """What the options ask for."""
    return KubernetesJob(
        script=options.script,
        image=options.image,
        arguments=tuple(options.arguments),
        kind=options.kind,
        name=options.job_name or _name_of(options.script, options.module),
        module=options.module,
        pods=options.pods,
        ranks_per_pod=options.ranks_per_pod,
        secret=secrets.token_hex(16),
        secret_name=options.secret,
        began_s=time.time(),
        claim=options.claim,
        mount=options.mount,
        folder=options.folder,
        cpu=options.cpu,
        memory=options.memory,
        gpus=options.gpus,
        shared_memory=options.shared_memory,
        grace_s=options.grace,
        restarts=options.restarts,
        priority_class=options.priority_class,
        mpi=options.mpi,
        python=options.python,
        environment=pairs(options.env),
    )


def _name_of(script: str, module: bool) -> str:
    name = script.rpartition(".")[2] if module else Path(script).stem
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:40].rstrip("-") or "phalanx"


def _render(options: argparse.Namespace) -> int:
    print(job_from(options).render(), end="")
    return 0
