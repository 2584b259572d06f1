#!/bin/bash
${directives}

# Rendered by `phalanx slurm submit`: ${size}.

# When time is nearly up, or the job is to make room, Slurm signals the ranks. They agree on a step, save, and end with
# code ${stop_code}. This shell outlives the signal, to see that.
trap : TERM USR1
cd ${folder} || exit 1
${setup}

# Equal in all starts of one job, different for each task of an array
run=${name}-$${SLURM_ARRAY_JOB_ID:-$$SLURM_JOB_ID}$${SLURM_ARRAY_TASK_ID:+_$$SLURM_ARRAY_TASK_ID}
task=$${SLURM_ARRAY_TASK_ID:-0}
requeued=$${SLURM_RESTART_COUNT:-0}
mkdir -p ${logs}
began=${logs}/.$$run.began
${environment}
export PHALANX_LAUNCHED=1 PHALANX_SIZE=${ranks} PHALANX_STOP_CODE=${stop_code} PHALANX_FLIGHT=${logs}/$$run-flight

# After a restart the ranks go on from this job's newest checkpoint; older ones are another job's
if [ "$$requeued" -gt 0 ] && [ -s "$$began" ]; then
    export PHALANX_RESUME=auto
else
    date +%s >"$$began"
fi
PHALANX_STARTED_S=$$(cat "$$began")
export PHALANX_STARTED_S

attempt=0
while :; do
    # The ranks' secret and where rank 0 listens. It runs on this node, so that a port that is free here is free there.
    PHALANX_JOB=$$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    PHALANX_RESTART=$$((requeued + attempt))
    export PHALANX_JOB PHALANX_RESTART
    ${rendezvous}
    srun ${srun} ${command}
    code=$$?
    if [ $$code -eq 0 ] || [ $$code -eq ${stop_code} ] || [ $$attempt -ge ${restarts} ]; then break; fi
    attempt=$$((attempt + 1))
    export PHALANX_RESUME=auto
    echo "phalanx: the ranks ended with exit code $$code; restart $$attempt of ${restarts}" >&2
    sleep 1
done

if [ $$code -eq ${stop_code} ] && [ "$$requeued" -lt ${requeues} ]; then
    echo "phalanx: saved as asked; job $$SLURM_JOB_ID is requeued ($$((requeued + 1)) of at most ${requeues})" >&2
    scontrol requeue "$$SLURM_JOB_ID" && sleep 60 # Slurm ends this shell
fi
[ $$code -ne 0 ] || rm -f "$$began"
exit $$code
