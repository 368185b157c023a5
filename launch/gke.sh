#!/usr/bin/env bash
# One training on TPU slices of a GKE cluster, as a workload of xpk: a JobSet that is started again as a whole when a process ends early.
#
#   launch/gke.sh --cluster C --type TYPE --zone ZONE --image IMAGE [--project P] [--slices N] [--restarts N] [--dry-run] STAGE RECIPE RUN [--KEY VALUE]...
#
# STAGE is sft, rm, dpo, ppo or grpo, RECIPE its YAML file here, RUN its run folder on storage that the cluster mounts into its workloads (`xpk storage attach`);
# further flags go to `promedical train`. TYPE is as v6e-16; with --slices N set mesh.slice in the recipe. IMAGE has promedical-jax[tpu] installed; the recipe
# travels in the command. A workload that is there already is left alone. --restarts: how often it may be started again (100): a spot slice that is taken away
# and a run that was told to stop are each one. Whether slices are spot ones, the cluster says (`xpk cluster create --spot`).
set -uo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cluster='' type='' zone='' image='' project='' slices=1 restarts=100 dry=''
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --cluster | --type | --zone | --image | --project) [[ -n "${2:-}" ]] || fail "$1 is empty"; declare "${1#--}=$2"; shift 2 ;;
    --slices | --restarts) check_number "$1" "${2:-}"; declare "${1#--}=$2"; shift 2 ;;
    --dry-run) dry=yes; shift ;;
    *) usage ;;
  esac
done
[[ $# -ge 3 && -n "$cluster" && -n "$type" && -n "$zone" && -n "$image" ]] || usage
stage="$1" recipe="$2" run="$3"
shift 3
check_stage "$stage" "$recipe"
name="$(name_of "$run")"
where=(--cluster "$cluster" --zone "$zone" ${project:+--project "$project"})

if [[ -z "$dry" ]]; then
  there="$(xpk workload list "${where[@]}" --filter-by-job "$name")" || exit 1
  grep --quiet --word-regexp "$name" <<< "$there" && { say "$run is there already, as workload $name"; exit 0; }
fi
unpack="echo $(base64 --wrap 0 "$recipe") | base64 --decode > /tmp/recipe.yaml"
command="$unpack && promedical train $stage --config /tmp/recipe.yaml --out $(quoted "$run" "$@")"
act xpk workload create --workload "$name" --tpu-type "$type" --num-slices "$slices" --docker-image "$image" --max-restarts "$restarts" \
  --command "$command" "${where[@]}"
