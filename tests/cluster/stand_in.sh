#!/bin/bash
# Stands for `nemo-demix` in jobs: writes a line a start into $STAND_IN_CALLS, then does as STAND_IN says:
#   nothing: ends well | stopped_once: as stopped by SIGUSR1, unless restarted | stopped_final: the same,
#   in the stage `final` alone | stopped: always so | wait: until signalled
#   fail_INDEX: array task INDEX fails (no index: jobs that are no array), until there is a file $STAND_IN_CALLS.mended
# What ends well does STAND_IN_DO before.
echo "task=$SLURM_PROCID/$SLURM_NTASKS restart=${SLURM_RESTART_COUNT:-0} index=${SLURM_ARRAY_TASK_ID:-}" \
    "image=${LAB_CONTAINER_IMAGE:-} mounts=${LAB_CONTAINER_MOUNTS:-} gpus=${SLURM_GPUS_ON_NODE:-0} arguments=$*" \
    >>"$STAND_IN_CALLS"
trap 'exit 138' USR1
trap 'exit 143' TERM
stopped() { # when every task of this start has written its line: srun ends the others with the first
    while (($(grep -cF "/$SLURM_NTASKS restart=${SLURM_RESTART_COUNT:-0} index=${SLURM_ARRAY_TASK_ID:-} " \
        "$STAND_IN_CALLS") % SLURM_NTASKS)); do sleep 0.1; done
    exit 138
}
case ${STAND_IN:-nothing} in
nothing) ;;
stopped_once) ((${SLURM_RESTART_COUNT:-0})) || stopped ;;
stopped_final) [[ $1 != final ]] || ((${SLURM_RESTART_COUNT:-0})) || stopped ;;
stopped) stopped ;;
wait)
    sleep 300 &
    wait
    ;;
fail_*) [[ ${STAND_IN#fail_} != "${SLURM_ARRAY_TASK_ID:-}" || -e $STAND_IN_CALLS.mended ]] || exit 1 ;;
esac
eval "${STAND_IN_DO:-}"
