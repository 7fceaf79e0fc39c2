#!/usr/bin/env bash
# Installs what is missing (Debian/Ubuntu) and builds Basis in build/.
#   ./setup.sh            the program, build/basis
#   ./setup.sh --tests    also what ./tests/run needs
#   ./setup.sh --fuzz     also what the `fuzz` preset needs
#   ./setup.sh --cuda     build the CUDA backend even where no GPU answers; --no-cuda: never
set -euo pipefail
cd "$(dirname "$0")"

usage() { sed -n '2,6s/^# \{0,1\}//p' setup.sh; }
sections="build" cuda=auto target=basis
for arg in "$@"; do
  case $arg in
    --tests) sections="$sections tests" target=all ;;
    --fuzz) sections="$sections fuzz" ;;
    --cuda) cuda=ON ;;
    --no-cuda) cuda=OFF ;;
    -h | --help) usage; exit 0 ;;
    *) echo "setup.sh: unknown option $arg" >&2; usage >&2; exit 2 ;;
  esac
done

missing_packages() {  # the packages of the wanted sections that dpkg does not know as installed
  local wanted installed
  wanted=$(awk -v sections=" $sections " '/^#/ { on = index(sections, " " $2 " ") > 0; next } on && NF { print $1 }' tests/packages.txt)
  # shellcheck disable=SC2086
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $wanted 2>/dev/null | awk '$1 == "installed" { print $2 }' || true)
  comm -23 <(sort -u <<<"$wanted") <(sort -u <<<"$installed")
}

install_missing() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "setup.sh: not a Debian or Ubuntu machine: install the equivalents of tests/packages.txt yourself" >&2
    return
  fi
  local missing run=()
  missing=$(missing_packages | tr '\n' ' ')
  [ -n "${missing// /}" ] || return 0
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "setup.sh: as root: apt-get install $missing" >&2; exit 1; }
    run=(sudo)
  fi
  echo "setup.sh: installing $missing"
  local apt=("${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0)
  "${apt[@]}" update </dev/null
  local known=() name
  for name in $missing; do
    if apt-cache show "$name" >/dev/null 2>&1; then known+=("$name"); else echo "setup.sh: this system has no $name"; fi
  done
  [ ${#known[@]} = 0 ] || "${apt[@]}" install --no-install-recommends "${known[@]}" </dev/null >/dev/null
}

# cuDNN's header-only C++ frontend into .deps/, where cuDNN is installed without it. Basis works without: own kernels.
fetch_cudnn_frontend() {
  local header=cudnn_frontend.h folder
  for folder in .deps/include /usr/include /usr/local/include /usr/local/cuda/include; do
    [ ! -f $folder/$header ] || return 0
  done
  ldconfig -p | grep -q 'libcudnn\.so' || return 0
  mkdir -p .deps/wheel
  if python3 -m pip download -q --no-deps -d .deps/wheel nvidia-cudnn-frontend==1.15.0 >/dev/null 2>&1; then
    (cd .deps && for wheel in wheel/*.whl; do python3 -m zipfile -e "$wheel" .; done && rm -rf wheel)
  else
    echo "setup.sh: cuDNN's C++ frontend could not be fetched (pip download nvidia-cudnn-frontend): built without cuDNN"
  fi
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

install_missing
if [ $cuda = auto ]; then  # nvcc without a GPU would only make the build slower
  PATH=$PATH:/usr/local/cuda/bin
  if has_gpu && command -v nvcc >/dev/null; then cuda=ON; else cuda=OFF; fi
fi
if [ $cuda = ON ]; then fetch_cudnn_frontend; fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cmake --preset release -DBASIS_CUDA=$cuda >"$log" 2>&1 </dev/null || { cat "$log" >&2; exit 1; }
grep '^-- basis:' "$log" || true
cmake --build build --target $target </dev/null
echo "setup.sh: built build/basis"
