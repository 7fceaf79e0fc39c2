#!/usr/bin/env bash
# One command for a machine with a GPU: builds with CUDA, checks and measures everything there, prints a table last.
#   ./tests/gpu.sh [PART...]    parts, all by default: build tests gradcheck memcheck racecheck bench pytorch
# Each part's output goes to $OUT (default build-cuda/gpu)/PART.log, JSON beside it. A part that fails is reported and
# the rest go on; the exit status is then 1. BASIS_PART_TIMEOUT bounds one command (seconds, default 900).
set -uo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/cuda/bin
out=${OUT:-build-cuda/gpu}
limit=${BASIS_PART_TIMEOUT:-900}
basis=build-cuda/basis tests=build-cuda/tests/basis_tests
gpu_tests=${BASIS_GPU_FILTER:-'*Cuda*:*CUDA*:*Gpu*:*GPU*'}
mkdir -p "$out"
rows=() failures=0

# part NAME command...: runs it with its output in NAME.log and records a row of the table
part() {
  local name=$1 begin=$SECONDS status note
  shift
  printf '\n== %s: %s\n' "$name" "$*"
  timeout "$limit" "$@" </dev/null >"$out/$name.log" 2>&1
  status=$?
  note=$(grep -aE 'tests? passed|tests? failed|PASSED|FAILED|ERROR SUMMARY|RACECHECK SUMMARY|passed|error:' "$out/$name.log" |
    tail -1 | cut -c1-70)
  if [ $status = 0 ]; then
    rows+=("$(printf '%-22s %-6s %5ds  %s' "$name" ok $((SECONDS - begin)) "$note")")
  else
    failures=$((failures + 1))
    tail -25 "$out/$name.log"
    [ $status = 124 ] && note="over ${limit} s"
    rows+=("$(printf '%-22s %-6s %5ds  %s' "$name" FAIL $((SECONDS - begin)) "$note")")
  fi
  return $status
}

# json_part NAME command...: the same; standard output is JSON and goes to NAME.json
json_part() {
  local name=$1
  shift
  # shellcheck disable=SC2016
  part "$name" bash -c 'o=$1; shift; "$@" >"$o"; s=$?; head -c 400000 "$o" | tail -c 4000 >&2; exit $s' _ "$out/$name.json" "$@"
}

build_all() {
  cmake --preset cuda && cmake --build build-cuda -j "$(nproc)"
}

sanitize() {  # sanitize TOOL: the GPU tests, then every op's gradient check
  local tool=$1
  command -v compute-sanitizer >/dev/null || { rows+=("$(printf '%-22s SKIP          no compute-sanitizer' "$tool")"); return; }
  part "$tool-tests" compute-sanitizer --tool "$tool" --error-exitcode 9 $tests --gtest_filter="$gpu_tests"
  part "$tool-gradcheck" compute-sanitizer --tool "$tool" --error-exitcode 9 $basis gradcheck --device cuda --dtype f32
}

run_part() {
  case $1 in
    build) export -f build_all; part build bash -c build_all ;;
    tests) part tests $tests --gtest_brief=1 ;;
    gradcheck) for dtype in f32 bf16 f16; do json_part "gradcheck-$dtype" $basis gradcheck --device cuda --dtype $dtype --json; done ;;
    memcheck | racecheck) sanitize "$1" ;;
    bench) for what in attention projection step; do json_part "bench-$what" $basis bench $what --json; done ;;
    pytorch)
      local script name
      for script in tests/bench/*.py; do
        [ -f "$script" ] || { rows+=("$(printf '%-22s SKIP          no tests/bench/*.py' pytorch)"); continue; }
        name=$(basename "$script" .py)
        if ! python3 -c 'import torch' 2>/dev/null; then
          rows+=("$(printf '%-22s SKIP          python3 has no torch' "$name")")
        else
          part "$name" python3 "$script"
          tail -20 "$out/$name.log"
        fi
      done ;;
    *) echo "gpu.sh: unknown part $1" >&2; exit 2 ;;
  esac
}

[ $# -gt 0 ] || set -- build tests gradcheck memcheck racecheck bench pytorch
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1)
[ -n "$gpu" ] || { echo "gpu.sh: no NVIDIA GPU answers here" >&2; exit 2; }
for name in "$@"; do run_part "$name"; done

printf '\n%s, %s\n' "$gpu" "$(nvcc --version 2>/dev/null | grep -o 'release [0-9.]*' || echo 'no nvcc')"
printf '%-22s %-6s %6s  %s\n' part result time last
printf '%s\n' "${rows[@]}"
echo "logs in $out"
[ $failures = 0 ]
