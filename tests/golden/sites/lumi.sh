#!/bin/bash
#SBATCH --job-name=flowers
#SBATCH --partition=standard-g
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=7
#SBATCH --gpus-per-node=8
#SBATCH --mem-per-gpu=60G
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

# --- set-up of the site ----------------------------------------------------------------------------------------------
module purge
module use /appl/local/laifs/modules
module load lumi-aif-singularity-bindings
export NCCL_SOCKET_IFNAME=hsn0,hsn1,hsn2,hsn3
export NCCL_NET_GDR_LEVEL=3
export MIOPEN_USER_DB_PATH="/tmp/$USER-miopen-$SLURM_JOB_ID"
export MIOPEN_CUSTOM_CACHE_DIR="/tmp/$USER-miopen-$SLURM_JOB_ID"

# --- the command -----------------------------------------------------------------------------------------------------
cd /project/flowers || exit 66
command_in_step() {
    exec srun --nodes=2 --ntasks=16 --ntasks-per-node=8 --cpus-per-task=7 --kill-on-bad-exit=0 --wait=180 --cpu-bind=mask_cpu:7e000000000000,7e00000000000000,7e0000,7e000000,7e,7e00,7e00000000,7e0000000000 \
        singularity exec \
        --bind /project/flowers \
        /appl/local/laifs/containers/lumi-multitorch-latest.sif \
        python3 -m instar train recipe.yaml
}

