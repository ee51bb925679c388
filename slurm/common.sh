# shellcheck shell=bash
# Sourced by the sbatch files beside it. `demix STAGE ARGUMENTS` starts the stage on every node of the job, and puts the
# job back into the queue where it was stopped: the same command then goes on from the last checkpoint, so that a time
# limit shorter than the work, or a preemption, costs a wait and no work. site.example.env lists what a site can set.

# shellcheck disable=SC2016 # this text is for the shell of each task, inside the container where there is one
task='eval "${DEMIX_SETUP:-}"
command -v nemo-demix >/dev/null || {
    echo "nemo-demix: not on PATH on $(hostname); set DEMIX_SETUP or DEMIX_CONTAINER_IMAGE in the site file" >&2
    exit 2
}
exec nemo-demix "$@"'

demix() {
    local argument arguments=() srun_arguments=() status=0
    for argument in "$@"; do
        case $argument in
        recipe=*) arguments+=(--config-name "${argument#recipe=}") ;;
        *) arguments+=("$argument") ;;
        esac
    done
    read -ra srun_arguments <<<"${DEMIX_SRUN_ARGS:-}"
    if [[ -n ${DEMIX_CONTAINER_IMAGE:-}${DEMIX_CONTAINER_MOUNTS:-} ]]; then
        srun_arguments+=(
            --container-image="${DEMIX_CONTAINER_IMAGE:?is not set, but DEMIX_CONTAINER_MOUNTS is: see slurm/site.example.env}"
            --container-mounts="${DEMIX_CONTAINER_MOUNTS:?is not set, but DEMIX_CONTAINER_IMAGE is: see slurm/site.example.env}"
            --container-workdir="$PWD"
        )
    fi
    # By this the tasks know each other's messages; it is in their environment, never on a command line.
    NEMO_DEMIX_SECRET=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    export NEMO_DEMIX_SECRET
    # Slurm signals the tasks, and this script too where it ends the job: it has to outlive them to see how they ended.
    trap : TERM USR1
    srun --kill-on-bad-exit=1 --cpu-bind=none "${srun_arguments[@]}" bash -c "$task" nemo-demix "${arguments[@]}" ||
        status=$?
    if ((status == 138 || status == 143)); then # stopped by SIGUSR1, by SIGTERM
        requeue
    fi
    exit "$status"
}

requeue() {
    # The last task of an array has the array's own number for its job id: by that, all of the array would be requeued.
    local job=$SLURM_JOB_ID restarts=${SLURM_RESTART_COUNT:-0} most=${DEMIX_MAX_RESTARTS:-100}
    if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then
        job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    fi
    # A job that Slurm itself is ending is not RUNNING any more: preempted, it is requeued already; cancelled, it stays so.
    if [[ $(squeue --noheader --jobs="$job" --format=%T) != RUNNING ]]; then
        return
    fi
    if ((restarts >= most)); then
        echo "demix: job $job was stopped after $restarts restarts, DEMIX_MAX_RESTARTS=$most: given up; submit it again" >&2
        return
    fi
    echo "demix: job $job was stopped and is requeued (restart $((restarts + 1)) of at most $most)"
    scontrol requeue "$job"
}
