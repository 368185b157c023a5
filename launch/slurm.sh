#!/usr/bin/env bash
# One training on GPU nodes of a Slurm cluster, a process a GPU; told to stop or preempted, it is queued again and goes on from its last checkpoint.
#
#   launch/slurm.sh [--nodes N] [--gpus N] [--time T] [--notice SECONDS] [--requeues N] [--sbatch FLAG]... [--dry-run] STAGE RECIPE RUN [--KEY VALUE]...
#
# STAGE is sft, rm, dpo, ppo or grpo, RECIPE its YAML file, RUN its run folder, both on a file system that all nodes see; further flags go to
# `promedical train`. A run that is finished, or in the queue already, is left alone. --gpus: of a node (8). --time: as Slurm has it (04:00:00); --notice: how
# long before its end the run is told to stop (120). --requeues: how often it may be queued again (100). --sbatch: one more flag of sbatch, such as
# --sbatch --partition=gpu.
# The command is $PROMEDICAL, by default promedical.
set -uo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

nodes=1 gpus=8 time=04:00:00 notice=120 requeues=100 dry='' more=()
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --nodes | --gpus | --notice | --requeues) check_number "$1" "${2:-}"; declare "${1#--}=$2"; shift 2 ;;
    --time) time="${2:-}"; shift 2 ;;
    --sbatch) more+=("${2:-}"); shift 2 ;;
    --dry-run) dry=yes; shift ;;
    *) usage ;;
  esac
done
[[ $# -ge 3 ]] || usage
stage="$1" recipe="$2" run="$3"
shift 3
check_stage "$stage" "$recipe"
name="$(name_of "$run")"
read -ra promedical <<< "${PROMEDICAL:-promedical}"

[[ -f "$run/model/config.json" ]] && { say "$run is finished; nothing to do"; exit 0; }
if [[ -z "$dry" ]]; then
  queued="$(squeue --me --name "$name" --noheader --format %i)" || exit 1
  [[ -n "$queued" ]] && { say "$run is in the queue already, as job $queued"; exit 0; }
  mkdir -p "$run" || exit 1
fi

# The batch script. Slurm tells the processes, not it; who was told to stop ends with 75.
job="#!/usr/bin/env bash
srun --kill-on-bad-exit=0 $(quoted "${promedical[@]}" train "$stage" --config "$recipe" --out "$run" "$@")
code=\$?
if ((code == 75 && \${SLURM_RESTART_COUNT:-0} < $requeues)); then
  scontrol requeue \"\$SLURM_JOB_ID\"
fi
exit \$code"

submit=(sbatch --job-name "$name" --nodes "$nodes" --ntasks-per-node "$gpus" --gpus-per-node "$gpus" --time "$time" --signal "TERM@$notice" --requeue
  --open-mode append --output "$run/slurm.log" ${more[@]+"${more[@]}"})
if [[ -n "$dry" ]]; then
  act "${submit[@]}"
  echo "$job"
else
  "${submit[@]}" <<< "$job"
fi
