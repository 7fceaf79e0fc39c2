#!/usr/bin/env bash
# Recovery by fine-tuning: a trained model (a run directory of `basis convert`) gets other mixers in place of its
# attention (conv-basis, a window with four sinks of the same k, hybrids with the layers EXACT="2 5" exact; names:
# runs.sh) and is then fine-tuned on a text, as the dense model is. Prints the held-out loss before any step, the table
# after (mean and spread over the seeds), and writes the curves to OUT_DIR/finetune_mixers.svg. A text or a token shard
# (`basis tokenize`) will do; a shard needs a model that was converted without its tokenizer or a build that knows it.
#   tests/studies/finetune_mixers.sh BASIS MODEL TEXT OUT_DIR [JOBS] [SEEDS] [key.path=value ...]
set -u
. "$(dirname "$0")/runs.sh"
basis=$1 model=$2 text=$3 out=$4 jobs=${5:-4} seeds=${6:-"1 2 3"}
shift 6 2>/dev/null || shift $#
export SINKS=4 EXACT=${EXACT:-2 5}
mkdir -p "$out"
variants=${VARIANTS:-dense conv-8 conv-16 conv-64 window-8 window-16 window-64 hybrid-16}
for v in $variants; do  # one step at rate 0
  # shellcheck disable=SC2046
  start "before-$v" configs/finetune_mixers.yaml train.init_from="$model" data.train="$text" $(mixer "$v") "$@" \
    run.seed=1 train.max_steps=1 schedule.warmup_steps=0 optimizer.lr=0 schedule.min_lr=0 eval.every=0
done
names=()
for seed in $seeds; do
  for v in $variants; do
    # shellcheck disable=SC2046
    start "$v-s$seed" configs/finetune_mixers.yaml train.init_from="$model" data.train="$text" $(mixer "$v") \
      run.seed="$seed" "$@"
    names+=("$out/$v-s$seed")
  done
done
wait
for v in $variants; do
  echo "held-out loss before, $v: $(sed -n 's/.*"val_loss":\([0-9.]*\).*/\1/p' "$out/before-$v/metrics.jsonl" | tail -1)"
done
"$basis" compare "${names[@]}" ${BASELINE---baseline dense} --svg "$out/finetune_mixers.svg" \
  --title "${TITLE:-Fine-tuning with other mixers, held-out loss}"
