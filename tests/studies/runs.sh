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

tenth() { awk -v x="$1" 'BEGIN { printf "%g", x / 10 }'; }

# parameters NAME: how many the run's model has.
parameters() { "$basis" train "$out/$1/config.yaml" --dry-run 2>/dev/null | sed -n 's/^# \([0-9]*\) parameters.*/\1/p'; }
