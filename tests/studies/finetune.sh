#!/usr/bin/env bash
# Fine-tunes a Hugging Face GPT-2 on a text, once dense and once in Basis Decomposition form, at several rates and seeds
# (configs/finetune_gpt2_bd.yaml). Prints the loss each form starts with (seeds differ in the order of the data and in
# dropout alone) and the table (mean and spread over the seeds); curves go to OUT_DIR/finetune.svg.
# GPT2_DIR may be a run directory, TEXT a shard. bd-slow0.1 among FORMS: BD whose attention learns at a tenth of the rate.
#   [FORMS="dense bd bd-slow0.1"] tests/studies/finetune.sh BASIS GPT2_DIR TEXT OUT_DIR [JOBS] [RATES] [SEEDS] [key.path=value ...]
set -u
. "$(dirname "$0")/runs.sh"
basis=$1 gpt2=$2 text=$3 out=$4 jobs=${5:-4} rates=${6:-"1e-4 3e-4 1e-3"} seeds=${7:-"1 2 3"}
shift 7 2>/dev/null || shift $#
mkdir -p "$out"
"$basis" convert "$gpt2" "$out/start-dense" --to basis --dtype f32 >"$out/convert-dense.log" 2>&1 || exit
"$basis" convert "$gpt2" "$out/start-bd" --to basis --projector bd --basis pivoted --dtype f32 >"$out/convert-bd.log" 2>&1 || exit
names=()
for rate in $rates; do
  for form in ${FORMS:-dense bd}; do
    groups=()
    [[ $form == bd-slow* ]] && groups=("optimizer.groups=[{match: \"*attention/*\", lr_scale: ${form#bd-slow}}]")
    for seed in $seeds; do
      names+=("$form-$rate-s$seed")
      start "$form-$rate-s$seed" configs/finetune_gpt2_bd.yaml train.init_from="$out/start-${form%%-*}" data.train="$text" \
        run.seed="$seed" optimizer.lr="$rate" schedule.min_lr="$(tenth "$rate")" eval.every=100 eval.batches=0 "${groups[@]}" "$@"
    done
  done
done
wait
for form in dense bd; do  # one step at rate 0: the loss before any
  start "before-$form" configs/finetune_gpt2_bd.yaml train.init_from="$out/start-$form" data.train="$text" eval.every=0 \
    eval.batches=0 "$@" train.max_steps=1 optimizer.lr=0 schedule.min_lr=0
done
wait
for form in dense bd; do
  echo "validation loss before, $form: $(sed -n 's/.*"val_loss":\([0-9.]*\).*/\1/p' "$out/before-$form/metrics.jsonl")"
done
"$basis" compare "${names[@]/#/$out/}" --svg "$out/finetune.svg" \
  --title "Fine-tuning a GPT-2 on Austen's novels: dense and Basis Decomposition, validation loss"
