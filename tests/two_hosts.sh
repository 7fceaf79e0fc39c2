#!/usr/bin/env bash
# Two hosts on one machine: two network namespaces joined by a cable, one rank in each, found through MASTER_ADDR alone.
#   tests/two_hosts.sh BASIS
# 1. the two train to the loss that one rank alone reaches; 2. the cable is pulled: both leave with exit 5 within the
# time-out and name the other; 3. started again they go on from the checkpoint and end at the same loss.
# Exit 77 where namespaces cannot be made (root and iproute2 are needed).
set -eu
basis=$(readlink -f "$1")
dir=$(mktemp -d)
a=basis-a-$$ b=basis-b-$$
skip() { echo "SKIPPED: $1"; exit 77; }
clean() {
  for space in $a $b; do
    ip netns pids $space 2>/dev/null | xargs -r kill -9 || true
    ip netns del $space 2>/dev/null || true
  done
  rm -rf "$dir"
}
fail() { echo "FAILED: $1"; tail -n 20 "$dir"/*.log; exit 1; }
command -v ip >/dev/null || skip "no ip (iproute2)"
trap clean EXIT
{ ip netns add $a && ip netns add $b && ip link add basis-cable netns $a type veth peer name basis-cable netns $b; } 2>/dev/null ||
  skip "network namespaces need root"
for space in $a $b; do
  ip -n $space addr add 10.77.0.$([ $space = $a ] && echo 1 || echo 2)/24 dev basis-cable
  ip -n $space link set basis-cable up
  ip -n $space link set lo up
done

seq 1 4000 | awk '{ print "line", $1 * 7919 % 1009, "of the text" }' >"$dir/text.txt"
config() {  # NAME STEPS
  cat >"$dir/$1.yaml" <<YAML
run: {name: $1, out_dir: $dir, device: cpu}
model: {family: gpt2, n_layer: 1, n_head: 2, d_model: 16, max_seq_len: 16}
data: {train: [$dir/text.txt], seq_len: 16}
train: {global_batch: 6, max_steps: $2, precision: f64}
schedule: {warmup_steps: 5}
eval: {every: 0, batches: 3}
sample: {tokens: 0}
log: {every: 50, tensorboard: false}
checkpoint: {every: 100, keep: 3, keep_best: false}
dist: {timeout_s: 4}
YAML
}
start() {  # RANK SPACE NAME: on one of the hosts, in the background
  RANK=$1 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=10.77.0.1 MASTER_PORT=29500 OMP_NUM_THREADS=1 \
    ip netns exec "$2" "$basis" train "$dir/$3.yaml" >"$dir/$3-rank$1.log" 2>&1 &
}
both() {  # NAME: exit codes of ranks 0 and 1
  start 0 $a "$1" && local first=$!
  start 1 $b "$1" && local second=$! code0=0 code1=0
  [ -z "${2:-}" ] || $2 "$1"
  wait $first || code0=$?
  wait $second || code1=$?
  codes="$code0 $code1"
}
loss() { "$basis" eval "$dir/$1" --json | grep -o '"loss":[0-9.e+-]*' | cut -d: -f2; }
same() { awk -v a="$(loss "$1")" -v b="$(loss "$2")" 'BEGIN { d = a - b; exit !(a > 0 && d * d <= 1e-18 * a * a) }'; }

config alone 1500
OMP_NUM_THREADS=1 "$basis" train "$dir/alone.yaml" >"$dir/alone.log" 2>&1 || fail "one rank alone"
config pair 1500
both pair
[ "$codes" = "0 0" ] || fail "two hosts: exit codes $codes"
same alone pair || fail "two hosts: loss $(loss pair), alone $(loss alone)"
echo "two hosts end at the loss of one rank alone: $(loss pair)"

pull() {
  for _ in $(seq 500); do ls "$dir/$1"/checkpoints/*.h5 >/dev/null 2>&1 && break || sleep 0.02; done
  ip -n $b link set basis-cable down
  pulled=$(date +%s%N)
}
config cut 1500
both cut pull
seconds=$((($(date +%s%N) - pulled) / 1000000000))
[ "$codes" = "5 5" ] || fail "cable pulled: exit codes $codes"
[ $seconds -le 15 ] || fail "cable pulled: $seconds s until both had left"
grep -q "rank 1" "$dir/cut-rank0.log" && grep -q "rank 0" "$dir/cut-rank1.log" || fail "cable pulled: the other rank is not named"
echo "cable pulled: both left with exit 5 within $seconds s"

ip -n $b link set basis-cable up
"$basis" inspect "$dir/cut" >/dev/null || fail "cable pulled: no checkpoint"
step=$(ls "$dir/cut/checkpoints" | sort | tail -1)
both cut
[ "$codes" = "0 0" ] || fail "going on: exit codes $codes"
same alone cut || fail "going on: loss $(loss cut), alone $(loss alone)"
echo "started again from $step: the same loss, $(loss cut)"
