#!/usr/bin/env bash
# One training in several processes of this machine, which are started together, ended together, and started again from the last checkpoint.
#
#   launch/local.sh [--processes N] [--devices N] [--restarts N] [--dry-run] STAGE RECIPE RUN [--KEY VALUE ...]
#
# STAGE is sft, rm, dpo, ppo or grpo, RECIPE its YAML file, RUN its run folder; further flags go to `promedical train`. Started again it goes on where it
# was; a run that is finished is left alone. --devices: simulated CPU devices a process; without it each takes what it finds. --restarts: how often in a row
# a group that dies may be started again without a new checkpoint (3). Exit codes: 0 finished, 2 a mistake in the recipe, 75 told to stop, 1 given up.
# The command is $PROMEDICAL, by default promedical.
set -uo pipefail

usage() { sed -n '4,4s/^# *//p' "$0" >&2; exit 2; }

processes=2 devices='' restarts=3 dry=''
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --processes) processes="${2:-}"; shift 2 ;;
    --devices) devices="${2:-}"; shift 2 ;;
    --restarts) restarts="${2:-}"; shift 2 ;;
    --dry-run) dry=yes; shift ;;
    *) usage ;;
  esac
done
[[ $# -ge 3 && "$processes" =~ ^[1-9][0-9]*$ && "$devices" =~ ^([1-9][0-9]*)?$ && "$restarts" =~ ^[0-9]+$ ]] || usage
stage="$1" recipe="$2" run="$3"
shift 3
read -ra promedical <<< "${PROMEDICAL:-promedical}"
command=("${promedical[@]}" train "$stage" --config "$recipe" --out "$run" "$@")

free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 20000))
    (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || { echo "$port"; return; }
  done
}

newest() { # checkpoint, by its step
  find "$run/checkpoints" -mindepth 1 -maxdepth 1 -type d -regex '.*/[0-9]+' -printf '%f\n' 2> /dev/null | sort -n | tail -n 1
}

from() { # where the next start begins
  local step
  step="$(newest)"
  if [[ -n "$step" ]]; then echo "with the checkpoint of step $step"; else echo 'at the start'; fi
}

say() { echo "local.sh: $*" >&2; }

if [[ -n "$dry" ]]; then
  echo "would start $processes processes${devices:+ of $devices simulated devices}, and up to $restarts times again without a new checkpoint, each as"
  echo "JAX_COORDINATOR_ADDRESS=127.0.0.1:<free port> JAX_NUM_PROCESSES=$processes JAX_PROCESS_ID=<0..$((processes - 1))> ${command[*]}"
  echo "they would begin $(from)"
  exit 0
fi

pids=() told=''
pass_on() { told=yes; say 'told to stop; the processes finish their step and save'; kill -TERM "${pids[@]}" 2> /dev/null; }
trap pass_on TERM
trap 'kill -INT "${pids[@]}" 2> /dev/null; wait; exit 130' INT

barren=0 # starts in a row without a new checkpoint
while :; do
  before="$(newest)"
  port="$(free_port)"
  pids=()
  for ((i = 0; i < processes; i++)); do
    env ${devices:+JAX_NUM_CPU_DEVICES="$devices"} JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES="$processes" JAX_PROCESS_ID="$i" \
      "${command[@]}" &
    pids+=("$!")
  done
  running=("${pids[@]}") worst=0
  while ((${#running[@]})); do
    wait -n -p ended "${running[@]}"
    code=$?
    if [[ -z "${ended:-}" ]]; then # a signal came in between; those that still run are waited for again
      still=()
      for pid in "${running[@]}"; do kill -0 "$pid" 2> /dev/null && still+=("$pid"); done
      ((${#still[@]})) || { wait "${running[0]}"; worst=$?; }
      running=(${still[@]+"${still[@]}"})
      continue
    fi
    still=()
    for pid in "${running[@]}"; do [[ "$pid" == "$ended" ]] || still+=("$pid"); done
    running=(${still[@]+"${still[@]}"})
    if ((code)); then
      ((code == 2 || worst == 0)) && worst="$code"
      if ((code > 128 && ${#running[@]})); then
        say "a process was ended by signal $((code - 128)); the others end within a minute"
      fi
    fi
  done
  pids=()
  ((worst == 0)) && exit 0
  ((worst == 2)) && exit 2
  [[ -n "$told" ]] && exit 75
  if [[ "$(newest)" != "$before" ]]; then barren=0; else barren=$((barren + 1)); fi
  if ((barren > restarts)); then
    say "gave up: $barren starts without a new checkpoint; the last ended with code $worst"
    exit 1
  fi
  say "ended with code $worst; starting again, $(from)"
done
