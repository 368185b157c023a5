#!/usr/bin/env bash
# One training on a TPU pod by Google Cloud's queued resources: asks for it, waits, runs on all its hosts, asks again when a spot pod was taken away.
#
#   launch/tpu.sh --type TYPE --zone ZONE [--project P] [--runtime V] [--setup COMMAND] [--on-demand] [--keep] [--restarts N] [--dry-run] STAGE RECIPE RUN [...]
#
# STAGE is sft, rm, dpo, ppo or grpo, RECIPE its YAML file here, RUN its run folder on a file system that all hosts of the pod mount; further flags go to
# `promedical train`. TYPE is as v6e-8 or v5p-32, --runtime the software of its hosts (v2-alpha-tpuv6e), --setup what each host does first: mount that file
# system, install. Started again while a pod is there, it goes on with that one. When the run has ended the pod is given back, unless --keep. --restarts: how
# often pods may be lost, or starts fail (20). Exit codes: 0 finished, 2 a mistake in the recipe, 1 given up. Between two looks at the queue lie $POLL seconds
# (30).
set -uo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

type='' zone='' project='' runtime=v2-alpha-tpuv6e spot=--spot keep='' restarts=20 dry=''
setup="pip install --quiet 'promedical-jax[tpu]'"
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --type | --zone | --project | --runtime | --setup) [[ -n "${2:-}" ]] || fail "$1 is empty"; declare "${1#--}=$2"; shift 2 ;;
    --restarts) check_number "$1" "${2:-}"; restarts="$2"; shift 2 ;;
    --on-demand) spot=''; shift ;;
    --keep) keep=yes; shift ;;
    --dry-run) dry=yes; shift ;;
    *) usage ;;
  esac
done
[[ $# -ge 3 && -n "$type" && -n "$zone" ]] || usage
stage="$1" recipe="$2" run="$3"
shift 3
check_stage "$stage" "$recipe"
name="$(name_of "$run")"
where=(--zone "$zone" ${project:+--project "$project"} --quiet)
remote="$setup && promedical train $stage --config $name.yaml --out $(quoted "$run" "$@")"

ask() {
  act gcloud compute tpus queued-resources create "$name" --node-id "$name" --accelerator-type "$type" --runtime-version "$runtime" ${spot:+"$spot"} \
    "${where[@]}"
}
give_back() { act gcloud compute tpus queued-resources delete "$name" --force "${where[@]}"; }
send() { act gcloud compute tpus tpu-vm scp "$recipe" "$name:$name.yaml" --worker all "${where[@]}"; }
train() { act gcloud compute tpus tpu-vm ssh "$name" --worker all --command "$remote; echo \"promedical ended with code \$?\"" "${where[@]}"; }
state() { gcloud compute tpus queued-resources describe "$name" --format 'value(state.state)' "${where[@]}" 2> /dev/null; }

if [[ -n "$dry" ]]; then
  ask
  send
  train
  [[ -n "$keep" ]] || give_back
  exit 0
fi

lost=0
again() { # WHY
  lost=$((lost + 1))
  ((lost <= restarts)) || { say "gave up after $restarts restarts: $1"; exit 1; }
  say "$1; trying again"
}
while :; do
  case "$(state)" in
    '') ask || again 'the pod could not be asked for' ;;
    ACTIVE)
      said="$(mktemp)"
      if send; then train 2>&1 | tee "$said"; fi
      mapfile -t codes < <(sed -n 's/.*promedical ended with code \([0-9]*\).*/\1/p' "$said")
      rm -f "$said"
      if [[ "${#codes[@]}" -gt 0 && "${codes[*]}" =~ ^(0 ?)+$ ]]; then
        [[ -n "$keep" ]] || give_back
        exit 0
      fi
      case " ${codes[*]-} " in *' 2 '*) say "a mistake in the recipe or its flags; the pod $name is still there"; exit 2 ;; esac
      again "the run ended before its last step (codes: ${codes[*]:-none})"
      sleep "${POLL:-30}"
      ;;
    SUSPENDING | SUSPENDED | FAILED)
      again 'the pod was taken away'
      give_back
      ;;
    *) sleep "${POLL:-30}" ;;
  esac
done
