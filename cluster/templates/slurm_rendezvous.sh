host=$$(scontrol show hostnames "$$SLURM_JOB_NODELIST" | head -n 1)
if ! getent hosts "$$host" >/dev/null; then # the name means something to Slurm alone
    host=$$(scontrol show node "$$host" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
fi
port=$$(${python} -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
export PHALANX_RENDEZVOUS="$$host:$$port"
