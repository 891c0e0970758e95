# shellcheck shell=bash
# Shared by the job files here, with the settings of your site. They read this file; it does nothing alone.
#
#     ranks ARGUMENTS…     mpisqueeze on every task of the job: its exit code; in $told, a signal to this script
#
# Set these where you submit; sbatch hands them on:
#
#     LAUNCHER=srun|mpirun      what starts the ranks
#     SLURM_MPI_TYPE=TYPE       how srun and the MPI talk (srun --mpi=list): pmix for Open MPI, pmi2 for MPICH
#     MPISQUEEZE_DATA=FOLDER    data files, which are copied to each node's own disk first
#
# and, as for any job, SBATCH_ACCOUNT and SBATCH_PARTITION.

# The MPI that mpi4py was built for and the environment that has mpisqueeze, unless you submit from within them:
# module load openmpi
# source "$HOME/mpisqueeze/.venv/bin/activate"

# A task's linear algebra keeps to its cores.
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
# From SLURM 22.05 on, srun no longer takes this from the job's own options.
export SRUN_CPUS_PER_TASK="$OMP_NUM_THREADS"

case ${LAUNCHER:=srun} in
    srun)
        # Where the site has not chosen, PMIx, if there: without it, each task of Open MPI is a world of its own.
        if [ -z "${SLURM_MPI_TYPE:-}" ] && srun --mpi=list 2>&1 | grep -qw pmix; then
            export SLURM_MPI_TYPE=pmix
        fi
        start=(srun)
        ;;
    mpirun)
        start=(mpirun -n "$SLURM_NTASKS")
        # Open MPI (5, 4) would bind a rank with all its threads to one core.
        if [ "$OMP_NUM_THREADS" -gt 1 ]; then
            export PRTE_MCA_hwloc_default_binding_policy=none OMPI_MCA_hwloc_base_binding_policy=none
        fi
        ;;
    *)
        echo "LAUNCHER is srun or mpirun, not $LAUNCHER" >&2
        exit 2
        ;;
esac

# SIGUSR1, which --signal=B:USR1@60 sends to this script alone, goes on to the ranks: they finish their iteration, save
# it if they keep checkpoints, and exit with 143. SIGTERM they have from SLURM itself, so that it is noted only.
# shellcheck disable=SC2034  # preempt.sbatch reads it
told=""
ranks_pid=""
trap 'told=USR1; [ -z "$ranks_pid" ] || kill -USR1 "$ranks_pid"' USR1
trap 'told=TERM' TERM

ranks() {
    local code
    "${start[@]}" mpisqueeze "$@" &
    ranks_pid=$!
    # A signal ends `wait` before the ranks have ended.
    until wait "$ranks_pid"; code=$?; ! kill -0 "$ranks_pid" 2>/dev/null; do :; done
    ranks_pid=""
    return "$code"
}

# on_nodes COMMAND…: once on every node of the job.
on_nodes() {
    srun --mpi=none --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 "$@"
}

if [ -n "${MPISQUEEZE_DATA:-}" ]; then
    # A shared file system that all ranks read at once is slow; some sites name the disk to use instead.
    scratch=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/mpisqueeze-$SLURM_JOB_ID
    trap 'on_nodes rm -rf "$scratch" || rm -rf "$scratch"' EXIT
    # shellcheck disable=SC2016  # the shell on the node expands it
    on_nodes sh -c 'mkdir -p "$2" && cp -RL "$1/." "$2"' copy "$MPISQUEEZE_DATA" "$scratch"
    export MPISQUEEZE_DATA="$scratch"
fi
