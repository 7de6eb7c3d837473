#!/bin/bash
#SBATCH --job-name=a-b-touch-pwned-touch-pwned--rf-xxxxxxxxxxxxxxxxxxxxxxxxxxxx
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --time=01:00:00
#SBATCH --output=log.txt
#SBATCH --mail-user=me@example.org
#SBATCH --mail-type=END,FAIL
#SBATCH --signal=B:USR1@60
#SBATCH --open-mode=append
#SBATCH --requeue
# Written by instar VERSION. To run it by hand, in its own folder: sbatch script.sh

# --- what this job is ------------------------------------------------------------------------------------------------
folder='/project/a b'"'"'"$(touch pwned)`touch pwned`
;&|*~ é漢 -rf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx/jobs/0001'
longest=3600 lead=60 links=3
told=; trap 'told=USR1' USR1                   # set-up may take long enough to be warned in it
job=${SLURM_JOB_ID:-by-hand} attempt=${SLURM_RESTART_COUNT:-0} element=${SLURM_ARRAY_TASK_ID:-}
# The last element of an array has the number of the whole array as its own: queue that one again, and all start again.
[ -z "$element" ] || job=${SLURM_ARRAY_JOB_ID}_$element
carry_on() { exit 75; }                         # the next job of the chain waits for this one's end
run='/project/a b'"'"'"$(touch pwned)`touch pwned`
;&|*~ é漢 -rf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx/jobs'
events=$run/events.jsonl progress=$run/checkpoints/latest

# --- set-up of the site ----------------------------------------------------------------------------------------------
export GREETING="a b'\"\$(touch pwned)\`touch pwned\`
;&|*~ é漢 -rf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

# --- the command -----------------------------------------------------------------------------------------------------
cd '/project/a b'"'"'"$(touch pwned)`touch pwned`
;&|*~ é漢 -rf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx/jobs/0001' || exit 66
command_in_step() {
    exec srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=1 --kill-on-bad-exit=0 --wait=60 \
        instar train 'a b'"'"'"$(touch pwned)`touch pwned`
;&|*~ é漢 -rf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'
}

