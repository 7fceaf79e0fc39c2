#!/usr/bin/env bash
# One command for a machine with a GPU: builds with CUDA, checks and measures everything there, prints a table last.
#   ./tests/gpu.sh [PART...]    parts, all by default: build tests gradcheck memcheck racecheck drills bench pytorch
# Each part's output goes to $OUT (default build-cuda/gpu)/PART.log, JSON beside it. A part that fails is reported and
# the rest go on; the exit status is then 1. BASIS_PART_TIMEOUT bounds one command (seconds, default 900);
# BASIS_BUILD_DIR names a build directory other than build-cuda; BASIS_GPU_FILTER the tests the sanitizers run.
set -uo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/cuda/bin
build=${BASIS_BUILD_DIR:-build-cuda}
out=${OUT:-$build/gpu}
limit=${BASIS_PART_TIMEOUT:-900}
basis=$build/basis tests=$build/tests/basis_tests
gpu_tests=${BASIS_GPU_FILTER:-'*Cuda*:*CUDA*:*Gpu*:*GPU*'}
mkdir -p "$out"
rows=() failures=0

# row NAME RESULT SECONDS NOTE: one line of the table
row() { rows+=("$(printf '%-22s %-6s %5ss  %s' "$1" "$2" "$3" "$4")"); }

# What a log says in one line: test counts, a sanitizer's verdict, the counts of a gradient check, an error.
last_word() {
  {
    grep -aE '^\[ *(PASSED|FAILED) *\]|ERROR SUMMARY|RACECHECK SUMMARY|error:' "$1" | tail -1
    [ -f "$2" ] && grep -aoE '"(passed|failed|skipped)": *[0-9]+' "$2" | tail -3 | tr -d '"' | paste -sd ' '
  } | paste -sd ' ' | cut -c1-80
}

# part NAME command...: runs it with standard output and error in NAME.log and adds a row. With JSON=1 standard output
# goes to NAME.json.
part() {
  local name=$1 begin=$SECONDS status log=$out/$1.log json=
  shift
  [ "${JSON:-0}" = 1 ] && json=$out/$name.json
  printf '\n== %s: %s\n' "$name" "$*"
  : >"$log"; [ -z "$json" ] || : >"$json"
  timeout "$limit" "$@" </dev/null >>"${json:-$log}" 2>>"$log"
  status=$?
  grep -aq '^\[==========\] 0 tests' "$log" && status=1  # a filter that matches nothing checks nothing
  if [ $status = 0 ]; then
    row "$name" ok $((SECONDS - begin)) "$(last_word "$log" "$json")"
    return
  fi
  failures=$((failures + 1))
  [ -z "$json" ] || tail -c 2000 "$json"
  tail -25 "$log"
  if [ $status = 124 ]; then
    row "$name" FAIL $((SECONDS - begin)) "took over $limit s"
  else
    row "$name" FAIL $((SECONDS - begin)) "exit $status  $(last_word "$log" "$json")"
  fi
}

build_all() { cmake --preset cuda -B "$1" && cmake --build "$1" -j "$(nproc)"; }

sanitize() {  # sanitize TOOL: the GPU tests, then every op's gradient check with our own attention: cuDNN's has hazards
  local tool=$1
  command -v compute-sanitizer >/dev/null || { row "$tool" SKIP 0 "no compute-sanitizer"; return; }
  part "$tool-tests" compute-sanitizer --tool "$tool" --error-exitcode 9 $tests --gtest_filter="$gpu_tests"
  part "$tool-gradcheck" compute-sanitizer --tool "$tool" --error-exitcode 9 $basis gradcheck --device cuda --dtype bf16 --own-attention
}

run_part() {
  case $1 in
    build) export -f build_all; part build bash -c 'build_all "$1"' _ "$build" ;;
    tests) part tests $tests --gtest_brief=1 ;;
    gradcheck) for dtype in f32 bf16 f16; do JSON=1 part "gradcheck-$dtype" $basis gradcheck --device cuda --dtype $dtype --json; done ;;
    memcheck | racecheck) sanitize "$1" ;;
    drills) part drills tests/gpu_drills.sh $basis ;;
    bench) for what in attention bd conv projection step; do JSON=1 part "bench-$what" $basis bench $what --json; done ;;
    pytorch)
      local script name
      for script in tests/bench/*.py; do
        [ -f "$script" ] || { row pytorch SKIP 0 "no tests/bench/*.py"; continue; }
        name=$(basename "$script" .py)
        if ! python3 -c 'import torch' 2>/dev/null; then
          row "$name" SKIP 0 "python3 has no torch"
        else
          part "$name" python3 "$script"
          tail -20 "$out/$name.log"
        fi
      done ;;
    *) echo "gpu.sh: unknown part $1" >&2; exit 2 ;;
  esac
}

[ $# -gt 0 ] || set -- build tests gradcheck memcheck racecheck drills bench pytorch
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1)
[ -n "$gpu" ] || { echo "gpu.sh: no NVIDIA GPU answers here" >&2; exit 2; }
for name in "$@"; do run_part "$name"; done

{
  printf '\n%s, %s\n' "$gpu" "$(nvcc --version 2>/dev/null | grep -o 'release [0-9.]*' || echo 'no nvcc')"
  printf '%-22s %-6s %6s  %s\n' part result time last
  printf '%s\n' "${rows[@]}"
} | tee "$out/table.txt"
echo "logs in $out"
[ $failures = 0 ]
