#!/usr/bin/env bash
# A run, or a search, on nodes that Slurm gives. In the project's folder, which all nodes see, with its .venv:
#
#   sbatch --nodes=4 cluster/slurm.sh raf_ray.run --output runs/mine federation.rounds=50
#   sbatch --nodes=2 --gpus-per-node=4 cluster/slurm.sh raf_ray.tune tune_configs/kd_weights.yaml
#
# The first word is the module, the rest its own words. A job that was cut off goes on with --resume --output FOLDER.
#SBATCH --job-name=raf-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
# Whole nodes: Ray takes all that it sees of one, and at its end stops every Ray process of yours on it.
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
# At the time limit the run gets a minute to write its last lines.
#SBATCH --signal=TERM@60
set -euo pipefail

die() { echo "error: $1" >&2; exit 2; }

[ -n "${SLURM_JOB_ID:-}" ] || die "slurm.sh runs as a job: sbatch --nodes=2 cluster/slurm.sh raf_ray.run WORDS"
[ $# -gt 0 ] || die "slurm.sh needs a module and its words: sbatch cluster/slurm.sh raf_ray.run WORDS"
cd "${SLURM_SUBMIT_DIR:?}"
[ -x .venv/bin/ray ] || die "there is no .venv with Ray in $PWD; submit from the project's folder, after its pip install"
export PATH="$PWD/.venv/bin:$PATH"

module=$1
shift
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(getent ahostsv4 "$head" | awk 'NR == 1 {print $1}')
[ -n "$address" ] || die "the address of node $head is not known"

# Ports by the job's number, for nodes whose other jobs run Ray too: a block of 100 below 60000.
port=$((20000 + SLURM_JOB_ID % 400 * 100))
# Whoever reaches a port of Ray can run code: a token of this job alone.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpu-bind=none \
    ray symmetric-run --address "$address:$port" --min-nodes "$SLURM_JOB_NUM_NODES" --disable-usage-stats \
    --ray-client-server-port=$((port + 1)) --dashboard-port=$((port + 2)) --dashboard-agent-listen-port=$((port + 3)) \
    --min-worker-port=$((port + 10)) --max-worker-port=$((port + 99)) \
    -- python -m "$module" "$@"
