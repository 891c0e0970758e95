# shellcheck shell=bash
# Shared by the job files here, with the settings of your site. They read this file; it does nothing alone.
#
#     ranks ARGUMENTS…     run mpisqueeze on every task of the job; returns its exit code, 4 where a node was lost, and
#                          leaves in $told the name of a signal to this script, and in $lost whether the code is not
#                          the program's own, so that a node was lost or the ranks did not start
#
# Set these where you submit; sbatch passes them on:
#
#     LAUNCHER=srun|mpirun      the program that starts the ranks
#     SLURM_MPI_TYPE=TYPE       the interface between srun and MPI (srun --mpi=list): pmix for Open MPI, pmi2 for MPICH
#     MPISQUEEZE_DATA=FOLDER    data files, which are first copied to each node's own disk
#
# and, as for any job, SBATCH_ACCOUNT and SBATCH_PARTITION.

# The MPI that mpi4py was built for and the environment that has mpisqueeze, unless you submit from within them:
# module load openmpi
# source "$HOME/mpisqueeze/.venv/bin/activate"

# Linear algebra uses the cores of its task only.
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
# Since SLURM 22.05, srun does not take this from the job's options.
export SRUN_CPUS_PER_TASK="$OMP_NUM_THREADS"

# A step waits no longer than this for the nodes of its own job: where one was lost while the job was started again,
# SLURM (22.05) may hold it for busy, and srun would wait until the job's time is over. srun itself does not take the
# variable within a job.
soon=--immediate=${SLURM_IMMEDIATE:-120}
export PRTE_MCA_plm_slurm_args="${PRTE_MCA_plm_slurm_args:+$PRTE_MCA_plm_slurm_args }$soon"

# After `--export=NONE`, srun, and with it mpirun, would not pass on what this script has set up.
export SLURM_EXPORT_ENV=ALL

case ${LAUNCHER:=srun} in
    srun)
        # The default is PMIx, if available: without it, each task of Open MPI has a world of its own.
        if [ -z "${SLURM_MPI_TYPE:-}" ] && srun --mpi=list 2>&1 | grep -qw pmix; then
            export SLURM_MPI_TYPE=pmix
        fi
        # Where a rank is killed before MPI has started, the others wait for it, and srun for them.
        start=(env SLURM_WAIT="${SLURM_WAIT:-60}" srun "$soon")
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

# --signal=B:USR1@60 sends SIGUSR1 to this script alone, which passes it on to the ranks: they finish their iteration,
# save it if they keep checkpoints, and exit with 143. SLURM sends SIGTERM to the ranks itself, so it is only noted.
# shellcheck disable=SC2034  # preempt.sbatch reads it
told=""
# shellcheck disable=SC2034  # and this
lost=""
ranks_pid=""
trap 'told=USR1; [ -z "$ranks_pid" ] || kill -USR1 "$ranks_pid"' USR1
trap 'told=TERM' TERM

# folder_of ARGUMENTS…: the folder that they write to.
folder_of() {
    local word before="" folder=""
    for word; do
        case $before in --out | --resume) folder=$word ;; esac
        case $word in --out=* | --resume=*) folder=${word#*=} ;; esac
        before=$word
    done
    printf '%s\n' "$folder"
}

# is_done FOLDER: a run, a comparison or an advice says so in its folder.
is_done() { grep -qsE '^  "status": "(ok|done)"' "$1/summary.json" "$1/compare.json" "$1/advice.json"; }

# SLURM's PMIx (22.05) cannot start a step of the same job and number on a node where a power cut or a killed slurmstepd
# has left its socket behind. So a job that is started again gives the ranks' step a number that it has not had.
other_step() {
    local i
    for ((i = 0; i < ${SLURM_RESTART_COUNT:-0}; i++)); do
        srun "$soon" --mpi=none --nodes=1 --ntasks=1 true 2>/dev/null || true
    done
}

ranks() {
    local code
    [ "$LAUNCHER" != srun ] || other_step
    "${start[@]}" mpisqueeze "$@" &
    ranks_pid=$!
    # A signal ends `wait` before the ranks have ended.
    until wait "$ranks_pid"; code=$?; ! kill -0 "$ranks_pid" 2>/dev/null; do :; done
    ranks_pid=""
    # Open MPI's mpirun ends with 0 where it has lost a node.
    if [ "$code" = 0 ] && ! is_done "$(folder_of "$@")"; then
        echo "the ranks have ended, and $(folder_of "$@") does not say that all is done: a node was lost" >&2
        code=4
        lost=yes
    fi
    # shellcheck disable=SC2034
    case $code in 0 | 2 | 3 | 4 | 130 | 143) ;; *) lost=yes ;; esac
    return "$code"
}

# on_nodes COMMAND…: run it once on every node of the job.
on_nodes() {
    srun "$soon" --mpi=none --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 "$@"
}

if [ -n "${MPISQUEEZE_DATA:-}" ]; then
    # A shared file system is slow when all ranks read it at once; some sites name the local disk to use.
    scratch=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/mpisqueeze-$SLURM_JOB_ID
    trap 'on_nodes rm -rf "$scratch" || rm -rf "$scratch"' EXIT
    # shellcheck disable=SC2016  # the shell on the node expands it
    on_nodes sh -c 'mkdir -p "$2" && cp -RL "$1/." "$2"' copy "$MPISQUEEZE_DATA" "$scratch"
    export MPISQUEEZE_DATA="$scratch"
fi
