# shellcheck shell=bash disable=SC2034 # the scripts that source this use the rest
# What scripts/up and scripts/release-smoke share: starting the two programs, speaking to them, ending them.
# Sourced, never run. Everything is ended by the process id it was started with.
#
# Such a script runs as two: `stack_main` starts the script again, in a session of its own, and that one does the
# work and may be ended at any point; the first one only waits, so that it can end whatever was started, in
# order, whether the work succeeded, failed or was interrupted. (bash runs a trap wherever it happens to be, in the
# middle of a substitution, too. Here it is always in `wait`.)
#
# The caller sets `what` (its name in messages); the worker sets `bin` (where the programs lie) and calls
# `stack_lies_in`. What is said at the end is the caller's `stack_ended`.

# Every address here is this machine: a proxy from the environment must not get our requests.
export no_proxy='*' NO_PROXY='*'

what=${what:-stack}
bin=${bin:-}
step="starting"
gateway_pid="" backend_pid="" killed=""
gateway_code="" backend_code="" ended_with=""
url="" admin=""
scratch="" waiting=""

say() { printf '%s\n' "$*"; }
step() {
    step=$*
    printf '\n== %s\n' "$*"
}
# Names what failed, and ends.
fail() {
    printf '\n%s: FAILED at: %s\n%s\n' "$what" "$step" "$*" >&2
    exit 1
}

# stack_main "$@": returns in the worker only.
stack_main() {
    if [ "${1:-}" = --worker ]; then
        scratch=$2 waiting=$3
        return
    fi
    local signal="" code=0 worker
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/orket.XXXXXX")
    trap 'signal=INT' INT
    trap 'signal=TERM' TERM HUP
    setsid "$BASH" "scripts/${0##*/}" --worker "$scratch" "$$" </dev/null &
    worker=$!
    while :; do
        code=0
        wait "$worker" || code=$?
        alive "$worker" || break
        [ -z "$signal" ] || kill -TERM -- "-$worker" 2>/dev/null || true
    done
    trap '' INT TERM HUP
    if [ -n "$signal" ]; then
        case "$signal" in INT) code=130 ;; *) code=143 ;; esac
        # Once everything runs, a signal is the ordinary end.
        [ ! -e "$scratch/running" ] || code=0
    fi
    stop_recorded || code=1
    stack_ended "$code"
    rm -rf "$scratch"
    exit "$code"
}
# What the caller adds to the end, given the exit code; it may replace this.
stack_ended() { :; }

# stack_lies_in FOLDER: both programs and their runs are told from others by this folder.
stack_lies_in() { printf '%s\n' "$1" >"$scratch/folder"; }

# record NAME PID
record() { printf '%s\n' "$2" >"$scratch/$1.pid"; }

# Ends what the worker started and did not end itself.
stop_recorded() {
    local folder name pid
    [ -s "$scratch/folder" ] || return 0
    folder=$(cat "$scratch/folder")
    for name in orket-gateway orket-backend; do
        [ -s "$scratch/$name.pid" ] || continue
        pid=$(cat "$scratch/$name.pid")
        # The number may be another's by now.
        is_of "$pid" "$folder" || continue
        say "$what: stopping $name"
        stop_program "$name" "$pid" 40
    done
    # Runs ended with the backend (on_stop = "cancel"); the services of sandboxes are ended here.
    until_true 1 nothing_left_of "$folder" && return 0
    for pid in $(processes_of "$folder"); do
        say "$what: process $pid is left of a run or a sandbox: ending it"
        kill -TERM "$pid" 2>/dev/null || true
    done
    until_true 15 nothing_left_of "$folder" && return 0
    say "$what: still there: $(processes_of "$folder" | tr '\n' ' ')" >&2
    return 1
}

alive() { kill -0 "$1" 2>/dev/null; }

# Asks until the command succeeds; 1 when it did not within so many seconds.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.05
    done
}

# Where cargo puts what it builds with this profile.
built_programs() {
    local profile=$1 target
    target=$(cargo metadata --format-version 1 --no-deps --locked --offline 2>/dev/null |
        grep -o '"target_directory":"[^"]*"' | cut -d'"' -f4)
    [ "$profile" != dev ] || profile=debug
    printf '%s/%s' "${target:-target}" "$profile"
}

# A random secret of 256 bits in hex, in a file that only its owner reads.
make_secret() {
    (umask 077 && openssl rand -hex 32 >"$1") || fail "openssl could not make a secret"
}

# A command without the variables that would change what the programs do; how they log is left alone.
clean_env() {
    local name drop=()
    while IFS= read -r name; do
        case "$name" in
            ORKET_LOG | ORKET_LOG_*) ;;
            ORKET_* | GITEA_* | RUST_LOG) drop+=(-u "$name") ;;
        esac
    done < <(compgen -e)
    printf '%s\0' env "${drop[@]}"
}

# start NAME LOG FOLDER ARGUMENT…: starts a program in FOLDER, its output in LOG, and sets `started`.
start() {
    local name=$1 log=$2 folder=$3 prefix=()
    shift 3
    mapfile -d '' -t prefix < <(clean_env)
    [ ! -f "$log" ] || mv -f "$log" "$log.1"
    : >"$log"
    # Recorded before it leaves the worker's session: there is no moment at which nobody knows of it.
    (
        record "$name" "$BASHPID"
        cd "$folder" && umask 077 && exec setsid "${prefix[@]}" "$bin/$name" "$@"
    ) </dev/null >>"$log" 2>&1 9>&- &
    started=$!
}

announced() { sed -n "s/^$1 listening on //p" "$2" | head -n 1; }
has_announced() { [ -n "$(announced "$1" "$2")" ] || ! alive "$3"; }

# await NAME LOG PID: waits until the program says where it listens.
await() {
    until_true 30 has_announced "$1" "$2" "$3" || fail "$1 did not listen within 30 s. Its log: $2"
    if [ -z "$(announced "$1" "$2")" ]; then
        sed 's/^/    /' "$2" >&2
        fail "$1 ended instead of listening; above is what it said."
    fi
}

# start_backend FOLDER CONFIG LOG
start_backend() {
    start orket-backend "$3" "$1" serve --config "$2"
    backend_pid=$started
    await orket-backend "$3" "$backend_pid"
}

# start_gateway FOLDER CONFIG LOG: sets `url` and `admin`.
start_gateway() {
    start orket-gateway "$3" "$1" serve --config "$2"
    gateway_pid=$started
    await orket-gateway "$3" "$gateway_pid"
    read -r url _ admin < <(announced orket-gateway "$3")
}

# request METHOD PATH [curl option…]: sends a request to the gateway; sets `status` and `body`.
request() {
    local method=$1 path=$2
    shift 2
    body=""
    status=$(curl --disable --silent --show-error --max-time 30 --request "$method" --output "$scratch/body" \
        --write-out '%{http_code}' "$@" "$url$path" 2>"$scratch/curl") || {
        sed 's/^/    /' "$scratch/curl" >&2
        fail "$method $path got no answer"
    }
    [ ! -f "$scratch/body" ] || body=$(cat "$scratch/body")
}

# As `request`, with the key. It travels to curl by a file: the arguments of a process are public.
keyed() {
    local method=$1 path=$2
    shift 2
    request "$method" "$path" --header "@$scratch/key" "$@"
}

# expect STATUS WHAT: fails unless the last answer had this status.
expect() {
    [ "$status" = "$1" ] || fail "$2: expected status $1, got $status: $body"
}

# use_key FILE: the file whose key `keyed` presents.
use_key() {
    (umask 077 && printf 'X-API-Key: %s\n' "$(cat "$1")" >"$scratch/key")
}

# field NAME: the first string of that name in the last answer.
field() {
    printf '%s' "$body" | grep -o "\"$1\":\"[^\"]*\"" | head -n 1 | cut -d'"' -f4
}

# signature SECRET_FILE BODY_FILE: HMAC-SHA256 in hex, as Gitea sends it.
signature() {
    openssl dgst -sha256 -hmac "$(cat "$1")" "$2" | sed 's/^.*= *//'
}

# make_delivery CARD FILE: a real "pull request opened" body of Gitea whose title names this card.
make_delivery() {
    local from=tests/corpus/gitea/pull_request_opened.json
    sed "s/\"title\": \"[^\"]*\"/\"title\": \"$1: update the README\"/" "$from" >"$2" || fail "$from cannot be read"
    grep -q "\"title\": \"$1: " "$2" || fail "$from holds no title"
}

# deliver BODY_FILE SIGNATURE
deliver() {
    request POST /webhook/gitea --header 'Content-Type: application/json' --header 'X-Gitea-Event: pull_request' \
        --header 'X-Gitea-Event-Type: pull_request' --header "X-Gitea-Delivery: $(cat /proc/sys/kernel/random/uuid)" \
        --header "X-Gitea-Signature: $2" --data-binary "@$1"
}

# await_run ID: waits until the run has ended; fails unless it succeeded. Says each state it sees.
await_run() {
    local end=$((SECONDS + 60)) state="" last=""
    while :; do
        keyed GET "/v1/runs/$1"
        expect 200 "reading run $1"
        state=$(field state)
        [ "$state" = "$last" ] || say "run $1: $state"
        last=$state
        case "$state" in
            succeeded) return ;;
            failed | timed_out | canceled | lost) fail "the run ended $state: $body" ;;
        esac
        [ "$SECONDS" -lt "$end" ] || fail "the run had not ended after 60 s: $body"
        sleep 0.05
    done
}

# run_output ID: what the run wrote.
run_output() {
    keyed GET "/v1/runs/$1/logs"
    expect 200 "reading the output of run $1"
    local text
    printf '%s' "$body" | grep -o '"text":"\([^"\\]\|\\.\)*"' | sed 's/^"text":"//; s/"$//' |
        while IFS= read -r text; do printf '%b' "$text"; done
}

# The ids of processes whose command line names the folder: a program of ours, or a supervisor of a run.
processes_of() {
    local dir argv
    for dir in /proc/[0-9]*; do
        # It may end while it is being looked at.
        { mapfile -d '' -t argv <"$dir/cmdline"; } 2>/dev/null || continue
        [[ "${argv[*]}" == *"$1/"* ]] || continue
        case "${argv[0]##*/} ${argv[1]:-}" in
            "orket-gateway serve" | "orket-backend serve" | "orket-supervisor "*) printf '%s\n' "${dir#/proc/}" ;;
        esac
    done
}

nothing_left_of() { [ -z "$(processes_of "$1")" ]; }

# is_of PID FOLDER: whether this process is one of ours.
is_of() { { tr '\0' ' ' <"/proc/$1/cmdline"; } 2>/dev/null | grep -qF -- "$2/"; }

# stop_program NAME PID SECONDS: SIGTERM, then SIGKILL when it does not end. Sets `ended_with`.
stop_program() {
    local name=$1 pid=$2 seconds=$3
    kill -TERM "$pid" 2>/dev/null || true
    if ! until_true "$seconds" is_gone "$pid"; then
        say "$what: $name did not stop within $seconds s: killing it"
        kill -KILL "$pid" 2>/dev/null || true
        killed="$killed $name"
    fi
    ended_with=0
    wait "$pid" 2>/dev/null || ended_with=$?
}
is_gone() {
    # A child that ended and was not waited for is gone, too.
    ! alive "$1" || grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null
}

# Ends both programs, the door first, and keeps the codes they ended with.
stop_stack() {
    stop_program orket-gateway "$gateway_pid" 25
    gateway_code=$ended_with gateway_pid=""
    stop_program orket-backend "$backend_pid" 40
    backend_code=$ended_with backend_pid=""
}
