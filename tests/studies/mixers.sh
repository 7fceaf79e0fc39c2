#!/usr/bin/env bash
# Held-out loss by mixer at 1,024 tokens: trains configs/mixers.yaml for each mixer and seed, several at a time, and
# prints the table (mean and spread over the seeds) and the curves as OUT_DIR/mixers.svg.
#   tests/studies/mixers.sh BASIS TRAIN_TEXT HELD_OUT_TEXT OUT_DIR [JOBS] [SEEDS] [key.path=value ...]
set -u
basis=$1 text=$2 held_out=$3 out=$4 jobs=${5:-4} seeds=${6:-"1 2 3"}
shift 6 2>/dev/null || shift $#
a=model.attention.mixer
dense() { for l in "$@"; do echo "model.layers.$l.mixer.type=fused"; done; }
variant() {  # name -> the overrides that make it
  case $1 in
    dense) echo "$a.type=fused" ;;
    conv-*) echo "$a.type=conv_basis $a.k=${1#conv-}" ;;
    learned-* | staggered-*) echo "$a.type=conv_basis $a.k=${1##*-} $a.breakpoints=${1%%-*}" ;;
    near-*) echo "$a.type=conv_basis $a.k=$((${1#near-} / 2)) $a.window=$((${1#near-} / 2))" ;;
    nearlearned-*) echo "$a.type=conv_basis $a.k=$((${1#*-} / 2)) $a.window=$((${1#*-} / 2)) $a.breakpoints=learned" ;;
    window-*) echo "$a.type=window $a.window=$((${1#window-} - 1)) $a.sink=1" ;;
    low-*) echo "$a.type=low_rank $a.features=${1#low-}" ;;
    lora-*) echo "$a.type=long_lora $a.group=${1#lora-}" ;;
    third-*) echo "$a.type=conv_basis $a.k=${1#third-}" "$(dense 2 5)" ;;
    sixth-*) echo "$a.type=conv_basis $a.k=${1#sixth-}" "$(dense 5)" ;;
  esac
}
mkdir -p "$out"
for seed in $seeds; do
  for v in ${VARIANTS:-conv-64 conv-16 conv-8 third-16 sixth-16 dense window-8 window-16 window-64}; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    # shellcheck disable=SC2046
    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 "$basis" train configs/mixers.yaml run.out_dir="$out" run.name="$v-s$seed" \
      run.seed="$seed" data.train="$text" data.val="$held_out" train.resume=never $(variant "$v") "$@" >"$out/$v-s$seed.log" 2>&1 ||
      echo "failed: $v-s$seed" &
  done
done
wait
"$basis" compare "$out"/*-s*/ ${BASELINE---baseline dense} --svg "$out/mixers.svg" \
  --title "Held-out loss by mixer, byte level, 1,024 tokens"
