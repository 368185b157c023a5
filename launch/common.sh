# What the launchers share; each of them sources it.
# shellcheck shell=bash

say() { echo "${0##*/}: $*" >&2; }

usage() { # the first lines of the script that begin with its name
  sed -n "s/^#   \(launch\/.*\)/\1/p" "$0" >&2
  exit 2
}

fail() { say "$*"; exit 2; }

act() { # does something, or with --dry-run prints it as it would be typed
  if [[ -n "$dry" ]]; then printf '%q ' "$@" | sed 's/ $//'; echo; else "$@"; fi
}

check_stage() { # STAGE RECIPE
  case "$1" in sft | rm | dpo | ppo | grpo) ;; *) fail "no stage is called $1; there are sft, rm, dpo, ppo and grpo" ;; esac
  [[ -f "$2" ]] || fail "$2: no such recipe; give the YAML file of a stage"
}

check_number() { # FLAG VALUE
  [[ "$2" =~ ^[1-9][0-9]*$ ]] || fail "$1 is ${2:-empty}; give a number above 0"
}

name_of() { # a name for the job of a run folder: the same for the same folder, and another for another one
  local base
  base="$(basename "$1" | tr '[:upper:]' '[:lower:]' | tr -c 'a-z0-9\n' - | cut -c 1-20)"
  echo "pm-${base%-}-$(printf %s "$1" | cksum | cut -d ' ' -f 1)"
}

quoted() { # words as one line of shell
  printf '%q ' "$@" | sed 's/ $//'
}
