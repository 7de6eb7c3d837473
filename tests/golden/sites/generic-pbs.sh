#!/bin/bash
#PBS -N flowers
#PBS -l select=2:ncpus=1:mpiprocs=1
#PBS -l place=scatter
#PBS -l walltime=24:00:00
#PBS -j oe
#PBS -o scheduler.txt
#PBS -k doe
#PBS -m n
#PBS -S /bin/bash
#PBS -r y
# Written by instar VERSION. To run it by hand, in its own folder: qsub script.sh

# --- what this job is ------------------------------------------------------------------------------------------------
folder=/project/flowers/runs/flowers/jobs/0001
longest=86400 lead=180 links=4
told=; trap 'told=USR1' USR1                   # set-up may take long enough to be warned in it
job=${PBS_JOBID:-by-hand} element=
job=${job%%.*}
if [ -n "${PBS_JOBID:-}" ]; then exec >>"$folder/log.txt" 2>&1; fi
# PBS counts no restarts, and warns nobody before the limit: it is all over ten seconds after its TERM.
attempt=$(grep -sxcF -- "$job" "$folder/starts")
attempt=${attempt:-0} unwarned=1
echo "$job" >>"$folder/starts"
carry_on() { exit 75; }                         # the next job of the chain waits for this one's end
run=/project/flowers/runs/flowers
events=$run/events.jsonl progress=$run/checkpoints/latest

# --- the command -----------------------------------------------------------------------------------------------------
cd /project/flowers || exit 66
command_in_step() {
    exec mpiexec -n 2 --ppn 1 \
        python3 -m instar train recipe.yaml
}

