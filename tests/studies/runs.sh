# Shared by the studies (sourced): starts training runs side by side. Expects $basis, $out and $jobs.

# start NAME CONFIG [key.path=value ...]: one run into $out/NAME, its log beside it, when fewer than $jobs are going.
start() {
  local name=$1 config=$2
  shift 2
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
  OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 "$basis" train "$config" run.out_dir="$out" run.name="$name" \
    train.resume=never sample.tokens=0 log.tensorboard=false checkpoint.every=0 checkpoint.keep_best=false "$@" \
    >"$out/$name.log" 2>&1 || echo "failed: $name: $(grep -m 1 error "$out/$name.log")" &
}

# mixer NAME: the overrides that make it; K keys or segments a query.
#   dense; conv-K; window-K, SINKS (1) of them the first keys; low-FEATURES; lora-GROUP
#   learned-K, staggered-K, recover-K: breakpoints of that rule; burst-K: learned, half of them at once
#   near-K, nearlearned-K: half of K scored exactly near the diagonal
#   third-K, sixth-K: of six layers every third or sixth exact; hybrid-K: layers EXACT; third-near-K and the like
mixer() {
  local a=model.attention.mixer k=${1##*-} half=$((10#0${1##*[!0-9]} / 2)) exact="" l
  case $1 in
    third-*) exact="2 5" ;;
    sixth-*) exact=5 ;;
    hybrid-*) exact=${EXACT:-2} ;;
  esac
  case $1 in
    dense) echo "$a.type=fused" ;;
    window-*) echo "$a.type=window $a.window=$((k - ${SINKS:-1})) $a.sink=${SINKS:-1}" ;;
    low-*) echo "$a.type=low_rank $a.features=$k" ;;
    lora-*) echo "$a.type=long_lora $a.group=$k" ;;
    nearlearned-*) echo "$a.type=conv_basis $a.k=$half $a.window=$half $a.breakpoints=learned" ;;
    near-* | *-near-*) echo "$a.type=conv_basis $a.k=$half $a.window=$half" ;;
    burst-*) echo "$a.type=conv_basis $a.k=$k $a.breakpoints=learned $a.burst=$half" ;;
    learned-* | staggered-* | recover-*) echo "$a.type=conv_basis $a.k=$k $a.breakpoints=${1%%-*}" ;;
    conv-* | third-* | sixth-* | hybrid-*) echo "$a.type=conv_basis $a.k=$k $a.breakpoints=uniform" ;;
    *) echo "unknown-mixer=$1" ;;
  esac
  for l in $exact; do echo "model.layers.$l.mixer.type=fused"; done
}

tenth() { awk -v x="$1" 'BEGIN { printf "%g", x / 10 }'; }

# parameters NAME: how many the run's model has.
parameters() { "$basis" train "$out/$1/config.yaml" --dry-run 2>/dev/null | sed -n 's/^# \([0-9]*\) parameters.*/\1/p'; }
