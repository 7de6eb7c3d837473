#!/bin/bash
# Written by instar VERSION. To run it by hand, in its own folder: bash script.sh

# --- what this job is ------------------------------------------------------------------------------------------------
folder=/project/flowers/runs/flowers/jobs/0001
longest=86400 lead=180 links=4
told=; trap 'told=USR1' USR1                   # set-up may take long enough to be warned in it
element=${INSTAR_ELEMENT:-} attempt=${INSTAR_ATTEMPT:-0}
read -r stat <"/proc/$$/stat"
read -ra stat <<<"${stat##*) }"
job=$$-${stat[19]}-${HOSTNAME//_/-}
elements=2 at_once=1
if [ -z "$element" ]; then
    cd "$folder" || exit 66
    export INSTAR_ARRAY=$job
    running=() stopped=
    trap 'stopped=1; kill -s TERM "${running[@]}" 2>/dev/null' TERM INT
    for ((next = 0; next < elements; next++)); do
        INSTAR_ELEMENT=$next bash ./script.sh >>"log-$next.txt" 2>&1 &
        running+=($!)
        while [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; do wait -n; done
        [ -z "$stopped" ] || break
    done
    while [ -n "$(jobs -rp)" ]; do wait; done
    exit 0
fi
job=${INSTAR_ARRAY:-by-hand}_$element
carry_on() {  # the same process starts over, so that whoever knows its number still does
    kill "${timers[@]}" 2>/dev/null
    cd "$folder" || return 1
    export INSTAR_ATTEMPT=$((attempt + 1))
    exec bash ./script.sh
}
case $element in
    0) run=/project/flowers/runs/flowers/0000 more=(optim.lr=0.1) ;;
    1) run=/project/flowers/runs/flowers/0001 more=(optim.lr=0.01 'note=a '"'"'b'"'"'') ;;
    *) exit 66 ;;
esac
mkdir -p "$run" || exit 73
events=$run/events.jsonl progress=$run/checkpoints/latest

# --- the command -----------------------------------------------------------------------------------------------------
cd /project/flowers || exit 66
command_in_step() {
    exec timeout --preserve-status --signal=USR1 --kill-after=180 86220 \
        python3 -m instar train recipe.yaml \
        "${more[@]}" run="$run"
}

