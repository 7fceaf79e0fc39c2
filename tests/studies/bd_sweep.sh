#!/usr/bin/env bash
# Learning-rate sweep of dense attention against BD (converted and direct initialisation): trains the configuration for
# each, several at a time, and prints the table; curves as OUT_DIR/bd_sweep.svg.
#   tests/studies/bd_sweep.sh BASIS CONFIG TEXT OUT_DIR [JOBS] [RATES] [key.path=value ...]
set -u
basis=$1 config=$2 text=$3 out=$4 jobs=${5:-4} rates=${6:-"3e-4 1e-3 3e-3"}
shift 6 2>/dev/null || shift $#
p=model.attention.projector
variant() {  # name -> the overrides that make it
  case $1 in
    dense) ;;
    bd-converted) echo "$p.type=bd $p.init=converted" ;;
    bd-direct) echo "$p.type=bd $p.init=direct" ;;
  esac
}
mkdir -p "$out"
for rate in $rates; do
  for v in dense bd-converted bd-direct; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    # shellcheck disable=SC2046
    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 "$basis" train "$config" run.out_dir="$out" run.name="$v-$rate" \
      optimizer.lr="$rate" data.train="$text" train.resume=never $(variant "$v") "$@" >"$out/$v-$rate.log" 2>&1 ||
      echo "failed: $v-$rate" &
  done
done
wait
"$basis" compare "$out"/*/ --svg "$out/bd_sweep.svg"
for v in dense bd-direct; do
  "$basis" inspect "$out/$v-${rates%% *}" | grep -m1 -i parameters | sed "s/^/$v: /"
done
