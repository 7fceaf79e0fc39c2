#!/usr/bin/env bash
# Dense attention against Basis Decomposition, trained from scratch at several learning rates and otherwise alike;
# bd-converted starts as the dense model of the same seed, bd-direct draws C itself. Prints a table and the parameters
# saved; curves go to OUT_DIR/bd_sweep.svg.
#   tests/studies/bd_sweep.sh BASIS CONFIG TEXT OUT_DIR [JOBS] [RATES] [key.path=value ...]
set -u
. "$(dirname "$0")/runs.sh"
basis=$1 config=$2 text=$3 out=$4 jobs=${5:-4} rates=${6:-"3e-4 1e-3 3e-3"}
shift 6 2>/dev/null || shift $#
p=model.attention.projector
mkdir -p "$out"
names=()
for rate in $rates; do
  for form in dense bd-converted bd-direct; do
    case $form in
      dense) projector="$p.type=dense" ;;
      bd-*) projector="$p.type=bd $p.init=${form#bd-}" ;;
    esac
    names+=("$form-$rate")
    # shellcheck disable=SC2086
    start "$form-$rate" "$config" data.train="$text" $projector optimizer.lr="$rate" \
      schedule.min_lr="$(tenth "$rate")" eval.every=100 "$@"
  done
done
wait
"$basis" compare "${names[@]/#/$out/}" --svg "$out/bd_sweep.svg" --high "${HIGH:-0}" \
  --title "${TITLE:-Dense attention and Basis Decomposition, validation loss}"
dense=$(parameters "dense-$rate") bd=$(parameters "bd-direct-$rate")
echo "parameters: dense $dense, bd $bd: $((dense - bd)) saved ($(awk "BEGIN { printf \"%.1f\", 100 - 100 * $bd / $dense }") %)"
