# For .ci/run and .ci/nightly, which source this: steps in parts that have a budget of minutes.
#
#     part 4 "set-up"             # the steps that follow have four minutes together
#     step "lint" make lint       # run one; the first that fails, or is over the budget, ends the run
#     build "go" scripts/gomicro  # start one now, beside the steps, and
#     built "go"                  # wait for it, as a step
#     finish                      # that git sees nothing new, and all times

# Settings of whoever runs this must not reach the tests.
for name in $(compgen -e | grep '^MICRO_' || true); do
    unset "$name"
done

before=$(git status --porcelain)
# Tests that failed once and then passed by themselves (tests/second_look.py).
export UNSTEADY=$PWD/.build/unsteady
rm -f "$UNSTEADY"
lines=()
part=""
part_start=0
part_seconds=0
running=""
declare -A builds=()
logs=$(mktemp -d)

stop() { # stop GROUP: end a process group: as Ctrl-C does, then by asking, then by force
    local how tries
    for how in INT TERM KILL; do
        kill "-$how" -- "-$1" 2>/dev/null || return 0
        for tries in {1..75}; do
            kill -0 -- "-$1" 2>/dev/null || return 0
            sleep 0.2
        done
    done
}

leave() { # whatever ends the run: nothing that it started goes on
    local group
    for group in $running "${builds[@]}"; do
        stop "$group"
    done
    rm -rf "$logs"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
    printf '\n=== FAILED: %s\n' "$*" >&2
    exit 1
}

close_part() {
    [ -z "$part" ] || lines+=("$(printf '%6d s of %4d  %s' "$((SECONDS - part_start))" "$part_seconds" "$part")")
    part=""
}

part() { # part MINUTES NAME: begin a part
    close_part
    part=$2
    part_seconds=$(($1 * 60))
    part_start=$SECONDS
}

step() { # step NAME COMMAND…
    local name=$1 start=$SECONDS status=0 spent
    shift
    printf '\n=== %s: %s\n' "$name" "$*"
    # A group of its own, so that all of it can be ended.
    set -m
    "$@" </dev/null &
    running=$!
    set +m
    while kill -0 "$running" 2>/dev/null; do
        if [ "$((SECONDS - part_start))" -ge "$part_seconds" ]; then
            spent=$((SECONDS - start))
            stop "$running"
            fail "$name: after $spent s the budget of \"$part\", $((part_seconds / 60)) min, is used up"
        fi
        sleep 0.2
    done
    wait "$running" || status=$?
    running=""
    [ "$status" -eq 0 ] || fail "$name, after $((SECONDS - start)) s with status $status ($*)"
    lines+=("$(printf '%6d s          %s' "$((SECONDS - start))" "$name")")
    printf -- '--- %s: ok, %d s\n' "$name" "$((SECONDS - start))"
}

build() { # build NAME COMMAND…: start it in the background, giving way to all else
    local name=$1
    shift
    printf '\n=== in the background, %s: %s\n' "$name" "$*"
    set -m
    timed nice -n 19 "$@" >"$logs/$name" 2>&1 </dev/null &
    builds[$name]=$!
    set +m
}

timed() { # timed COMMAND…: run it, and say how long that took
    local start=$SECONDS
    "$@" || return
    printf 'took %d s\n' "$((SECONDS - start))"
}

await() { # await PROCESS LOG: until a build has ended; what it printed, and whether it succeeded
    while kill -0 "$1" 2>/dev/null; do
        sleep 0.2
    done
    cat "$2"
    [ "$(tail -n 1 "$2" | cut -d ' ' -f 1)" = took ]
}

built() { # built NAME…: wait for these builds
    local name
    for name in "$@"; do
        step "build of $name" await "${builds[$name]}" "$logs/$name"
        unset "builds[$name]"
    done
}

have() { # have PROGRAM:PACKAGE…: what is missing is installed where that can be done, else an error
    local pair missing=() lacks=0
    for pair in "$@"; do
        command -v "${pair%%:*}" || missing+=("${pair##*:}")
    done
    if [ "${#missing[@]}" -gt 0 ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" || return 1
    fi
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || { echo "missing: ${pair%%:*}" >&2; lacks=1; }
    done
    return "$lacks"
}

nothing_new_in_git() { # the checks leave nothing behind that git would see
    local now
    now=$(git status --porcelain)
    [ "$now" = "$before" ] || { printf 'git status before:\n%s\nnow:\n%s\n' "$before" "$now" >&2; return 1; }
}

finish() {
    built "${!builds[@]}"
    part 1 ""
    step "clean checkout" nothing_new_in_git
    printf '\n=== all passed in %d s\n' "$SECONDS"
    printf '%s\n' "${lines[@]}"
    [ ! -e "$UNSTEADY" ] || printf '\n=== UNSTEADY, to be mended:\n%s\n' "$(cat "$UNSTEADY")"
}
