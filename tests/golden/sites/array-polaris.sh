#!/bin/bash
#PBS -N flowers
#PBS -q preemptable
#PBS -l select=2:ncpus=32:mpiprocs=4:system=polaris
#PBS -l place=scatter
#PBS -l walltime=24:00:00
#PBS -J 0-1%1
#PBS -j oe
#PBS -o scheduler-^array_index^.txt
#PBS -k doe
#PBS -m n
#PBS -S /bin/bash
#PBS -r y
#PBS -lfilesystems=home:eagle
# Written by instar VERSION. To run it by hand, in its own folder: qsub script.sh

# --- what this job is ------------------------------------------------------------------------------------------------
folder=/project/flowers/runs/flowers/jobs/0001
longest=86400 lead=180 links=4
told=; trap 'told=USR1' USR1                   # set-up may take long enough to be warned in it
# An array of one is no array to PBS.
element=${PBS_ARRAY_INDEX:-0} job=${PBS_ARRAY_ID:-${PBS_JOBID:-by-hand}}
job=${job%%.*}_$element
if [ -n "${PBS_JOBID:-}" ]; then exec >>"$folder/log-$element.txt" 2>&1; fi
# PBS counts no restarts, and warns nobody before the limit: it is all over ten seconds after its TERM.
attempt=$(grep -sxcF -- "$job" "$folder/starts")
attempt=${attempt:-0} unwarned=1
echo "$job" >>"$folder/starts"
carry_on() { exit 75; }                         # the next job of the chain waits for this one's end
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
    exec mpiexec -n 8 --ppn 4 --depth=8 --cpu-bind depth \
        python3 -m instar train recipe.yaml \
        "${more[@]}" run="$run"
}

