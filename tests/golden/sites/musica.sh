#!/bin/bash
#SBATCH --job-name=flowers
#SBATCH --partition=zen4_0768_h100x4
#SBATCH --qos=zen4_0768_h100x4
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=23
#SBATCH --gpus-per-node=4
#SBATCH --mem=682G
#SBATCH --time=1-00:00:00
#SBATCH --output=log.txt
#SBATCH --signal=B:USR1@180
#SBATCH --hint=nomultithread
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
carry_on() { exit 75; }                         # the next job of the chain waits for this one's end
run=/project/flowers/runs/flowers
events=$run/events.jsonl progress=$run/checkpoints/latest

# --- set-up of the site ----------------------------------------------------------------------------------------------
module purge
module load EESSI/2023.06

# --- the command -----------------------------------------------------------------------------------------------------
cd /project/flowers || exit 66
command_in_step() {
    exec srun --nodes=2 --ntasks=8 --ntasks-per-node=4 --cpus-per-task=23 --kill-on-bad-exit=0 --wait=180 \
        python3 -m instar train recipe.yaml
}

