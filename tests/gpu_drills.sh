#!/usr/bin/env bash
# Ranks on GPUs through NCCL: the same results as one rank, and what happens when a rank is lost.
#   tests/gpu_drills.sh BASIS [DRILLS=6] [SECONDS=100]
# With one GPU, three ranks share it: each says that it is on a host of its own (NCCL_HOSTID), so that NCCL lets them
# talk through sockets. With more, every rank has its own.
# 1. Three ranks end within 1e-5 (f32) of the loss that one rank reaches, and with the same bits when repeated.
# 2. kill -9, SIGSTOP and SIGTERM in turn on a random rank at a random moment: the others leave with exit 5 within the
#    time-out, naming it and their last step (after SIGTERM all save and leave with 143); started again the run ends with
#    the bits of a run left alone.
# Exit 77 without a GPU. No drill is begun after SECONDS.
set -u
basis=$(readlink -f "$1") drills=${2:-6} budget=${3:-100}
gpus=$(nvidia-smi -L 2>/dev/null | wc -l)
[ "$gpus" -gt 0 ] || { echo "SKIPPED: no GPU"; exit 77; }
ranks=$((gpus > 2 ? gpus : gpus == 2 ? 2 : 3)) timeout=8 port=29800 steps=150
dir=$(mktemp -d) failed=0
clean() { kill -9 "${pids[@]}" 2>/dev/null; rm -rf "$dir"; }
pids=()
trap clean EXIT
say() { printf '%4ds  %s\n' $SECONDS "$*"; }
fail() { say "FAILED: $1"; failed=$((failed + 1)); tail -n 5 "$dir"/log.*; }

seq 1 4000 | awk '{ print "line", $1 * 7919 % 1009, "of the text" }' >"$dir/text.txt"
cat >"$dir/run.yaml" <<YAML
run: {out_dir: $dir, device: cuda}
model: {family: gpt2, n_layer: 2, n_head: 4, d_model: 64, max_seq_len: 64}
data: {train: [$dir/text.txt], seq_len: 64}
train: {global_batch: $((2 * ranks)), max_steps: $steps}
schedule: {warmup_steps: 5}
eval: {every: 0, batches: 3}
sample: {tokens: 0}
log: {every: 10, tensorboard: false}
checkpoint: {every: 10, keep: 3, keep_best: false}
dist: {timeout_s: $timeout}
YAML

start() {  # NAME KEY=VALUE...: all ranks, in the background
  local name=$1 r env
  shift
  port=$((port + 1)) pids=()
  for ((r = 0; r < ranks; r++)); do
    env="LOCAL_RANK=$r"
    [ "$gpus" -ge "$ranks" ] || env="LOCAL_RANK=0 NCCL_HOSTID=host$r NCCL_NET=Socket NCCL_SOCKET_IFNAME=lo"
    env RANK=$r WORLD_SIZE=$ranks MASTER_ADDR=127.0.0.1 MASTER_PORT=$port OMP_NUM_THREADS=1 $env \
      "$basis" train "$dir/run.yaml" run.name="$name" "$@" >"$dir/log.$r" 2>&1 &
    pids+=($!)
  done
}
finish() {  # exit codes of all ranks, in `codes`
  local p
  codes=()
  for p in "${pids[@]}"; do
    wait "$p"
    codes+=($?)
  done
}
newest() { ls "$dir/$1/checkpoints" 2>/dev/null | sed -n 's/^step-\([0-9]*\)\.h5$/\1/p' | sort -n | tail -1; }
await_checkpoint() { for _ in $(seq 1500); do [ -z "$(newest "$1")" ] && kill -0 "${pids[0]}" 2>/dev/null && sleep 0.02 || break; done; }
loss() { grep -o '"val_loss":[0-9.e+-]*' "$dir/$1/metrics.jsonl" | tail -1 | cut -d: -f2; }  # at the end

"$basis" train "$dir/run.yaml" run.name=one train.precision=f32 >"$dir/log.one" 2>&1 || fail "one rank"
one=$(loss one)
say "one rank on a GPU ends at $one"
declare -A whole
length=0  # seconds from the first checkpoint to the end
for kind in "f32 0" "bf16 1"; do
  set -- $kind
  start whole-$1 train.precision=$1 dist.zero=$2
  await_checkpoint whole-$1
  began=$(date +%s%N)
  finish
  length=$(awk -v n=$(($(date +%s%N) - began)) 'BEGIN { print n / 1e9 }')
  [ "${codes[*]}" = "$(printf '0 %.0s' $(seq $ranks) | sed 's/ $//')" ] ||
    { fail "$ranks ranks, $kind: exit ${codes[*]}"; exit 1; }
  whole[$1]=$(loss whole-$1)
  say "$ranks ranks on $gpus GPU(s), $1, ZeRO $2: ${whole[$1]}; $(grep -o "ranks through nccl.*" "$dir/log.0" | head -1)"
done
awk -v a="$one" -v b="${whole[f32]}" 'BEGIN { d = a - b; exit !(a > 0 && d * d <= 1e-10 * a * a) }' ||
  fail "f32: ${whole[f32]} with $ranks ranks, $one with one"
awk -v a="$one" -v b="${whole[bf16]}" 'BEGIN { d = a - b; exit !(a > 0 && d * d <= 4e-4 * a * a) }' ||
  fail "bf16: ${whole[bf16]} with $ranks ranks, $one with one in f32"

RANDOM=2026
for ((i = 0; i < drills && SECONDS < budget; i++)); do
  signal=$(set -- KILL STOP TERM && shift $((i % 3)) && echo $1) victim=$((RANDOM % ranks))
  [ $((i / 3 % 2)) = 0 ] && kind="f32 0" || kind="bf16 1"
  set -- $kind
  name=drill$i
  for attempt in 1 2 3; do # the run may end before the signal comes
    rm -rf "${dir:?}/$name"
    start $name train.precision=$1 dist.zero=$2
    await_checkpoint $name
    sleep $(awk -v r=$RANDOM -v t=$length "BEGIN { print 0.6 * t * r / 32768 }")
    sent=$(date +%s%N)
    kill -$signal ${pids[$victim]}
    frozen=${pids[$victim]}
    for ((r = 0; r < ranks; r++)); do
      [ $r = $victim ] && [ $signal = STOP ] && continue
      for _ in $(seq 1000); do kill -0 ${pids[$r]} 2>/dev/null && sleep 0.02 || break; done
    done
    took=$((($(date +%s%N) - sent) / 1000000))
    kill -9 $([ $signal = STOP ] && echo $frozen) 2>/dev/null
    finish
    [ $((${codes[*]/%/+}0)) = 0 ] || break
  done
  step=$(newest $name)
  [ $took -le $((timeout * 1000 + 2000)) ] || fail "$name: $took ms until all had left"
  for ((r = 0; r < ranks; r++)); do
    if [ $signal = TERM ]; then
      [ ${codes[$r]} = 143 ] || fail "$name: rank $r left with ${codes[$r]}"
    elif [ $r != $victim ]; then
      [ ${codes[$r]} = 5 ] || fail "$name: rank $r left with ${codes[$r]}"
      grep -q "rank.* $victim.*the last step done is" "$dir/log.$r" || fail "$name: rank $r does not name rank $victim"
    fi
  done
  said=$(grep -h error "$dir"/log.* | head -1 | cut -c1-110)
  start $name train.precision=$1 dist.zero=$2
  finish
  [ $((${codes[*]/%/+}0)) = 0 ] 2>/dev/null || fail "$name: going on: exit ${codes[*]}"
  [ "$(loss $name)" = "${whole[$1]}" ] || fail "$name: ends at $(loss $name), undisturbed at ${whole[$1]}"
  say "$name: SIG$signal on rank $victim ($kind): left after $took ms, newest checkpoint $step, same end. $said"
done
say "$i drills, $failed failures"
[ $failed = 0 ]
