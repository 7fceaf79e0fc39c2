#!/usr/bin/env bash
# Fine-tunes a Hugging Face checkpoint as it is and in BD form from the same weights: loss before the first step and
# after the last, over several seeds.
#   tests/studies/finetune.sh BASIS HF_DIRECTORY TEXT OUT_DIR [JOBS] [SEEDS] [key.path=value ...]
set -eu
basis=$1 source=$2 text=$3 out=$4 jobs=${5:-3} seeds=${6:-"1 2 3"}
shift 6 2>/dev/null || shift $#
mkdir -p "$out"
for form in dense bd; do
  rm -rf "$out/from-$form"
  "$basis" convert "$source" "$out/from-$form" --to basis --projector $form >"$out/convert-$form.log"
done
for seed in $seeds; do
  for form in dense bd; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 "$basis" train configs/finetune_gpt2_bd.yaml run.out_dir="$out" \
      run.name="$form-s$seed" run.seed="$seed" train.init_from="$out/from-$form" data.train="$text" train.resume=never \
      "$@" >"$out/$form-s$seed.log" 2>&1 || echo "failed: $form-s$seed" &
  done
done
wait
for form in dense bd; do
  printf '%-6s before: ' $form
  "$basis" eval "$out/from-$form" data.val="$text" "$@" | tail -1
done
"$basis" compare "$out"/*-s*/ --svg "$out/finetune.svg"
