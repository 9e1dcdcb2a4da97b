# Sourced by the scripts here; gives them ROOT, PYTHON and an environment with everything in it.
#
# The first time it makes .venv and installs the package with its extras, in the versions of
# constraints.txt; later only when what it installs from has changed. It needs bash, coreutils,
# Python and a C compiler, and may run in several shells at once.

set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$ROOT/.venv"
PYTHON="$VENV/bin/python"
STAMP="$VENV/gptqueue.stamp"
INSTALL_LOG="$ROOT/.local/log/install.log"
NEEDED_MB=4000

export PYTHONPATH="$ROOT"
# Whatever folder we are called from, a package of the same name there must not be taken for ours.
export PYTHONSAFEPATH=1
# OpenMP's threads must not spin while they wait for each other: on a busy machine a model on the CPU
# decodes ten times slower so.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

main() {
    is_installed || install
    unset -f main
}

is_installed() {
    [ -x "$PYTHON" ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$(wanted_stamp)" ]
}

# What .venv must have been made from, and for which place.
wanted_stamp() {
    printf '%s\n' "$ROOT"
    cat "$ROOT/setup.cfg" "$ROOT/constraints.txt" "$ROOT/pyproject.toml" | cksum
}

install() {
    local base
    base="$(find_python)"
    mkdir -p "$ROOT/.local/log" || give_up "Nothing can be written to $ROOT."
    exec 9>"$ROOT/.local/environment.lock"
    wait_for_lock "$base"
    if ! is_installed; then # another script may just have done it
        check_machine "$base"
        rm -f "$STAMP"
        trap 'give_up "Stopped; the next run carries on from here."' INT TERM
        : >"$INSTALL_LOG"
        make_venv "$base"
        install_packages
        wanted_stamp >"$STAMP"
        trap - INT TERM
    fi
    exec 9>&-
}

find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    give_up "Python 3.11 or newer is needed, and there is none on the PATH."
}

# The lock belongs to the open file 9, so it stays when Python ends; flock(1) is not everywhere.
wait_for_lock() {
    "$1" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null && return
    echo "Another script is installing; waiting for it."
    "$1" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
}

check_machine() {
    local free
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        give_up "$("$1" --version) lacks the module venv. On Debian or Ubuntu: apt install python3-venv"
    command -v cc gcc clang "${CC:-cc}" >/dev/null ||
        give_up "A C compiler is needed, and there is none on the PATH. On Debian or Ubuntu: apt install gcc"
    free="$(free_mb)"
    [ -x "$PYTHON" ] || [ "$free" -ge "$NEEDED_MB" ] ||
        give_up "Only $free MB are free at $ROOT; the installation needs about $NEEDED_MB MB."
}

free_mb() {
    df -Pk "$ROOT" | tail -n 1 | {
        read -r _ _ _ kilobytes _
        echo $((kilobytes / 1024))
    }
}

make_venv() {
    "$PYTHON" -m pip --version >/dev/null 2>&1 && return
    echo "Making $VENV"
    "$1" -m venv --clear "$VENV" >>"$INSTALL_LOG" 2>&1 || explain_failure
}

install_packages() {
    local total
    total="$(grep -c '==' "$ROOT/constraints.txt")"
    echo "Installing $total packages into $VENV: about 2 GB, a few minutes."
    # Older ones cannot tell a program how far they are.
    pip --upgrade 'pip>=24.1' | show_progress "$total" || explain_failure
    pip -c constraints.txt -e '.[engine,local,dev]' | show_progress "$total" || explain_failure
}

pip() (
    cd "$ROOT"
    export PYTHONUNBUFFERED=1 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
    local bar=off
    ! "$PYTHON" -m pip install --help | grep -q 'raw' || bar=raw
    "$PYTHON" -m pip install --retries 2 --progress-bar "$bar" "$@" 2>&1 | tee -a "$INSTALL_LOG"
)

# One line that tells how far pip is, redrawn in a terminal; in a pipe, the large downloads.
show_progress() {
    local line="" rest="" status step=0 doing="" total=$(($1 * 3))
    while true; do
        status=0
        IFS= read -r -t 1 rest || status=$?
        line="$line$rest"
        [ "$status" -le 128 ] || { draw; continue; } # a second went by, perhaps within a line
        [ "$status" -eq 0 ] || break
        read_pip_line "$line"
        line=""
        draw
    done
    [ ! -t 1 ] || printf '\r\033[K'
}

# Sets step and doing, which belong to show_progress.
read_pip_line() {
    local words
    read -r -a words <<<"$1"
    case "${1#"${1%%[! ]*}"}" in
    "Collecting "* | "Requirement already satisfied"*) step=$((step + 1)) doing="resolving ${words[1]}" ;;
    *.metadata*) ;;
    "Downloading "* | "Using cached "*)
        step=$((step + 1)) doing="downloading ${words[1]%%-[a-z]*}"
        [ -t 1 ] || case "$1" in *[0-9][0-9].[0-9]" MB)" | *"GB)") echo "  ${words[*]}" ;; esac
        ;;
    "Processing "*) doing="unpacking ${words[1]##*/}" ;;
    "Progress "*)
        [ "${words[3]}" -lt 10000000 ] ||
            doing="${doing%% · *} · $((words[1] / 1000000)) of $((words[3] / 1000000)) MB"
        ;;
    "Building "* | "Preparing "*) doing="building" ;;
    "Installing collected packages"*) doing="installing" ;;
    esac
}

draw() {
    [ -t 1 ] || return 0
    local bar filled
    [ "$doing" != installing ] || step=$((total * 2 / 3 + $(count_installed)))
    filled=$((step * 30 / total))
    [ "$filled" -le 30 ] || filled=30
    printf -v bar '%*s' "$filled" ''
    printf '\r\033[K  [%-30s] %2d:%02d  %.36s' "${bar// /#}" $((SECONDS / 60)) $((SECONDS % 60)) "$doing"
}

count_installed() {
    set -- "$VENV"/lib/python*/site-packages/*.dist-info
    echo $#
}

explain_failure() {
    if grep -qi 'no space left on device\|disk quota exceeded' "$INSTALL_LOG"; then
        give_up "The disk is full: $(free_mb) MB are free at $ROOT. The log is $INSTALL_LOG"
    elif grep -q 'NewConnectionError\|NameResolutionError\|ConnectTimeout\|from versions: none' "$INSTALL_LOG"; then
        give_up "The package index cannot be reached: is there a network? The log is $INSTALL_LOG"
    fi
    tail -n 5 "$INSTALL_LOG" >&2
    give_up "The installation failed; the log is $INSTALL_LOG"
}

give_up() {
    [ ! -t 1 ] || printf '\r\033[K'
    printf '✗ %s\n' "$1" >&2
    exit 1
}

main
