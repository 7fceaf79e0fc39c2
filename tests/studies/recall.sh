#!/usr/bin/env bash
# Recall and copy by mixer: trains configs/recall.yaml for each, several at a time, and prints the table of accuracies.
#   [TASKS="mqar copy"] [SEEDS=1] [VARIANTS="dense conv-16 ..."] tests/studies/recall.sh BASIS OUT_DIR [JOBS] [key.path=value ...]
set -u
basis=$1 out=$2 jobs=${3:-4}
shift 3 2>/dev/null || shift $#
a=model.attention.mixer
variant() {  # name -> the overrides that make it
  case $1 in
    dense) echo "$a.type=fused" ;;
    conv-*) echo "$a.type=conv_basis $a.k=${1#conv-}" ;;
    learned-* | staggered-*) echo "$a.type=conv_basis $a.k=${1##*-} $a.breakpoints=${1%%-*}" ;;
    burst-*) echo "$a.type=conv_basis $a.k=${1##*-} $a.breakpoints=learned $a.burst=$((${1##*-} / 2))" ;;
    near-*) echo "$a.type=conv_basis $a.k=$((${1#near-} / 2)) $a.window=$((${1#near-} / 2))" ;;
    window-*) echo "$a.type=window $a.window=$((${1#window-} - 1)) $a.sink=1" ;;
    hybrid-*) echo "$a.type=conv_basis $a.k=${1#hybrid-} model.layers.2.mixer.type=fused" ;;
  esac
}
mkdir -p "$out"
for task in ${TASKS:-mqar copy}; do
  for seed in ${SEEDS:-1}; do
    for v in ${VARIANTS:-dense conv-8 conv-16 conv-64 window-8 window-16 window-64 hybrid-16}; do
      while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
      name=$task-$v-s$seed
      # shellcheck disable=SC2046
      OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 "$basis" train configs/recall.yaml run.out_dir="$out" run.name="$name" \
        run.seed="$seed" data.task="$task" train.resume=never $(variant "$v") "$@" >"$out/$name.log" 2>&1 ||
        echo "failed: $name" &
    done
  done
done
wait
"$basis" compare "$out"/*-s*/
