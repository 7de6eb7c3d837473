#!/bin/bash
#SBATCH --job-name=flowers
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --time=1-00:00:00
#SBATCH --output=log.txt
#SBATCH --signal=B:USR1@180
#SBATCH --open-mode=append
#SBATCH --requeue
# Written by instar VERSION. To run it by hand, in its own folder: sbatch script.sh

# --- what this job is ------------------------------------------------------------------------------------------------
folder=/project/flowers/runs/flowers/jobs/0001
longest=86400 lead=180 links=4
told=; trap 'told=USR1' USR1                   # set-up may take long enough to be warned in it
job=${SLURM_JOB_ID:-by-hand} attempt=${SLURM_RESTART_COUNT:-0} element=${SLURM_ARRAY_TASK_ID:-}
# The last element of an array has the number of the whole array as its own: queue that one again, and all start again.
[ -z "$element" ] || job=${SLURM_ARRAY_JOB_ID}_$element
carry_on() {
    local try id
    trap 'exit 0' TERM                          # the answer to `scontrol requeue` is a TERM to everything here
    for try in 1 2 3 4 5; do
        command -v scontrol >/dev/null || break
        if scontrol requeue "$job"; then sleep 600 & wait $!; exit 0; fi
        sleep $((2 * try))                      # busy controllers and networks say no for a while
    done
    # Not allowed here: a new job takes its place.
    cd "$folder" || return 1
    id=$(sbatch --parsable --dependency="afterany:$SLURM_JOB_ID" ${element:+--array="$element"} script.sh) || return 1
    id=${id##*$'\n'}                            # some sites greet first
    echo "${id%%;*}" >>ids
}
run=/project/flowers/runs/flowers
events=$run/events.jsonl progress=$run/checkpoints/latest

# --- the command -----------------------------------------------------------------------------------------------------
cd /project/flowers || exit 66
command_in_step() {
    exec srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=1 --kill-on-bad-exit=0 --wait=180 \
        python3 -m instar train recipe.yaml
}

