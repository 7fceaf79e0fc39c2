#!/usr/bin/env bash
# Recall and copy by mixer (names: runs.sh): trains configs/recall.yaml for each, several at a time, and prints the table of
# accuracies.
#   [TASKS="mqar copy"] [SEEDS=1] [VARIANTS="dense conv-16 ..."] tests/studies/recall.sh BASIS OUT_DIR [JOBS] [key.path=value ...]
set -u
. "$(dirname "$0")/runs.sh"
basis=$1 out=$2 jobs=${3:-4}
shift 3 2>/dev/null || shift $#
mkdir -p "$out"
names=()
for task in ${TASKS:-mqar copy}; do
  for seed in ${SEEDS:-1}; do
    for v in ${VARIANTS:-dense conv-8 conv-16 conv-64 window-8 window-16 window-64 hybrid-16}; do
      # shellcheck disable=SC2046
      start "$task-$v-s$seed" configs/recall.yaml run.seed="$seed" data.task="$task" $(mixer "$v") "$@"
      names+=("$out/$task-$v-s$seed")
    done
  done
done
wait
"$basis" compare "${names[@]}"
