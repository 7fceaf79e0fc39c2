#!/usr/bin/env bash
# Low rank of a Hugging Face GPT-2, as two factors and in Basis Decomposition, plain and weighed by activations on the
# first part of a text: perplexity on the text's end before and after a short fine-tune, size and speed of evaluation.
# TEXT may be a token shard NAME.h5 with NAME_val.h5 beside it, GPT2_DIR a run directory.
#   tests/studies/low_rank.sh BASIS GPT2_DIR TEXT OUT_DIR [JOBS] [SHARES] [key.path=value of training ...]
set -u
basis=$1 gpt2=$2 text=$3 out=$4 jobs=${5:-2} shares=${6:-"0.8 0.5"}
shift 6 2>/dev/null || shift $#
mkdir -p "$out"
case $text in
  *.h5) train=$text val=${text%.h5}_val.h5 ;;
  *)
    train=$out/train.txt val=$out/val.txt size=$(stat -c %s "$text")
    head -c $((size * 19 / 20)) "$text" >"$train"
    tail -c $((size / 20)) "$text" >"$val"
    ;;
esac

models=(dense)
"$basis" convert "$gpt2" "$out/dense" --to basis >"$out/convert-dense.log" 2>&1 || exit
for keep in $shares; do
  for form in low_rank low_rank_bd; do
    for weighing in plain weighed; do
      name=$form-$weighing-$keep
      calibration=()
      [ "$weighing" = weighed ] && calibration=(--calibration "$train")
      "$basis" convert "$gpt2" "$out/$name" --to basis --projector $form --keep "$keep" "${calibration[@]}" \
        >"$out/convert-$name.log" 2>&1 || { cat "$out/convert-$name.log"; exit 1; }
      models+=("$name")
    done
  done
  "$basis" convert "$out/low_rank-weighed-$keep" "$out/regauged-weighed-$keep" --projector low_rank_bd \
    >"$out/convert-regauged-$keep.log" 2>&1 || exit
  models+=("regauged-weighed-$keep")
done

perplexity() {  # RUN NAME: the line for the table
  "$basis" eval "$1" data.val="$val" --window 256 --windows "${WINDOWS:-0}" 2>"$out/eval-$2.log" |
    sed -E 's/.*perplexity ([0-9.]+),.* ([0-9]+) a second/\1 \2/' >"$out/eval-$2.txt"
}
for name in "${models[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do sleep 0.05; done
  {
    "$basis" train configs/finetune_gpt2_bd.yaml run.name="tuned-$name" run.out_dir="$out" train.init_from="$out/$name" \
      data.train="$train" data.val="$val" eval.every=0 sample.tokens=1 "$@" >"$out/tune-$name.log" 2>&1
    perplexity "$out/$name" "$name"
  } &
done
wait

printf '%-28s %10s %8s %10s %10s %12s\n' model parameters MiB before tuned tokens/s
for name in "${models[@]}"; do
  perplexity "$out/tuned-$name" "tuned-$name"  # one at a time: the speed counts
  read -r before _ <"$out/eval-$name.txt"
  read -r after speed <"$out/eval-tuned-$name.txt"
  log=$out/convert-$name.log
  [ -f "$log" ] || log=$out/convert-${name/-weighed/}.log
  read -r parameters mib < <(sed -nE 's/^parameters .* ([0-9]+), weights .* ([0-9.]+) MiB$/\1 \2/p' "$log")
  printf '%-28s %10s %8s %10s %10s %12s\n' "$name" "$parameters" "$mib" "$before" "$after" "$speed"
done
