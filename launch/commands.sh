# What the launch scripts share. They source it; it is not run. The bash 3.2 of macOS reads it too.
# shellcheck shell=bash

# A mistake that the user can fix: one line, exit code 2, as the program itself does.
mistake() {
  echo "error: $*" >&2
  exit 2
}

say() {
  echo "$(basename "$0"): $*" >&2
}

dry() {
  [[ ${DRY_RUN:-0} != 0 ]]
}

# The words as one line that a shell reads back as the same words.
quoted() {
  local word line="" apostrophe="'" escaped="'\\''"
  for word in "$@"; do
    case $word in
      "" | *[!A-Za-z0-9_./:=,@%+-]*) word="'${word//$apostrophe/$escaped}'" ;;
    esac
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Runs a command, or with DRY_RUN=1 prints it.
run() {
  if dry; then quoted "$@"; else "$@"; fi
}

# whole NAME LEAST [MOST]: the variable of this name holds a whole number of at least LEAST, and at most MOST.
whole() {
  if [[ ! ${!1} =~ ^[0-9]{1,6}$ ]] || ((10#${!1} < $2 || 10#${!1} > ${3:-999999})); then
    mistake "$1='${!1}' in the environment is not a whole number of at least $2${3:+ and at most $3}; set it to one or unset it"
  fi
}

needs() {
  dry || command -v "$1" > /dev/null || mistake "$1 was not found; $2"
}

# The value of --workdir among the arguments of the program.
workdir_of() {
  local found="" word previous=""
  for word in "$@"; do
    case $previous in --workdir) found=$word ;; esac
    case $word in --workdir=*) found=${word#--workdir=} ;; esac
    previous=$word
  done
  [[ -n $found ]] || mistake "--workdir is missing; name a folder, such as --workdir=/mnt/shared/runs/mine"
  printf '%s\n' "$found"
}

# outcome CODE LOG: what a run of all workers came to, from the exit code of who ran them, and from what worker.sh or srun says
# of each: who ran them tells only one code, that of another worker perhaps, which was ended because of the first.
#   finished   the program is through
#   mistake    one worker's exit code was 2: the same line would end the same way
#   stopped    it was asked to stop: it says that it saved, or SIGTERM's 143 is the code of all that ended badly, saved or not
#   failed     anything else
outcome() {
  local codes
  codes=$(
    sed -n -e 's/^\[.*\] ended with exit code \([0-9]*\)$/\1/p' \
      -e '/^srun: error: .*: tasks\{0,1\} [0-9,-]*: /{ s///; s/^Exited with exit code //; s/^Terminated$/143/; p; }' "$2" | sort -u
  )
  case $'\n'$codes$'\n' in *$'\n2\n'*)
    echo mistake
    return
    ;;
  esac
  if [[ $codes == 143 ]] || grep -q 'stopped and saved; resume with:' "$2"; then
    echo stopped
  elif (($1 == 0)); then
    echo finished
  else
    echo failed
  fi
}
