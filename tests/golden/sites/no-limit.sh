#!/bin/bash
# Written by instar VERSION. To run it by hand, in its own folder: bash script.sh

# --- what this job is ------------------------------------------------------------------------------------------------
folder=/project/flowers/runs/flowers/jobs/0001
longest=0 lead=180 links=4
told=; trap 'told=USR1' USR1                   # set-up may take long enough to be warned in it
element=${INSTAR_ELEMENT:-} attempt=${INSTAR_ATTEMPT:-0}
read -r stat <"/proc/$$/stat"
read -ra stat <<<"${stat##*) }"
job=$$-${stat[19]}-${HOSTNAME//_/-}
carry_on() {  # the same process starts over, so that whoever knows its number still does
    kill "${timers[@]}" 2>/dev/null
    cd "$folder" || return 1
    export INSTAR_ATTEMPT=$((attempt + 1))
    exec bash ./script.sh
}
run=/project/flowers/runs/flowers
events=$run/events.jsonl progress=$run/checkpoints/latest

# --- the command -----------------------------------------------------------------------------------------------------
cd /project/flowers || exit 66
command_in_step() {
    exec python3 -m instar train recipe.yaml
}

