#!/usr/bin/env bash
# Held-out loss by mixer at 1,024 tokens: trains configs/mixers.yaml for each mixer (names: runs.sh) and seed, several at a
# time, and prints the table (mean and spread over the seeds) and the curves as OUT_DIR/mixers.svg.
#   [VARIANTS="dense conv-16 ..."] tests/studies/mixers.sh BASIS TRAIN_TEXT HELD_OUT_TEXT OUT_DIR [JOBS] [SEEDS] [key.path=value ...]
set -u
. "$(dirname "$0")/runs.sh"
basis=$1 text=$2 held_out=$3 out=$4 jobs=${5:-4} seeds=${6:-"1 2 3"}
shift 6 2>/dev/null || shift $#
mkdir -p "$out"
names=()
for seed in $seeds; do
  for v in ${VARIANTS:-conv-64 conv-16 conv-8 third-16 sixth-16 dense window-8 window-16 window-64}; do
    # shellcheck disable=SC2046
    start "$v-s$seed" configs/mixers.yaml run.seed="$seed" data.train="$text" data.val="$held_out" $(mixer "$v") "$@"
    names+=("$out/$v-s$seed")
  done
done
wait
"$basis" compare "${names[@]}" ${BASELINE---baseline dense} --svg "$out/mixers.svg" \
  --title "Held-out loss by mixer, byte level, 1,024 tokens"
