#!/bin/sh
# Usage: floors.sh ROOT. Fails when an include goes up a floor, crosses from one op's folder into another's, is not
# rooted at the repository, or when a source file is over 300 lines. Prints each violation as file:line: reason.
cd "$1" || exit 2
find core configs autograd ops models trainers tests -type f \
  \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name "*.cuh" \) ! -path "tests/support/bad_floors/*" 2>/dev/null | LC_ALL=C sort | xargs awk '
  BEGIN {
    split("core configs autograd ops models trainers tests", floors, " ")
    for (i in floors) level[floors[i]] = i + 0
  }
  function complain(text) { printf "%s:%d: %s\n", FILENAME, FNR, text; bad = 1 }
  FNR == 1 { files++; split(FILENAME, here, "/") }
  FNR == 301 && here[1] != "tests" { complain("over 300 lines") }
  /^[ \t]*#[ \t]*include[ \t]*"/ {
    target = $0
    sub(/^[^"]*"/, "", target)
    sub(/".*/, "", target)
    split(target, there, "/")
    if (!(there[1] in level)) {
      complain("\"" target "\" is not rooted at the repository")
    } else if (level[there[1]] > level[here[1]]) {
      complain("\"" target "\" goes up, from " here[1] " to " there[1])
    } else if (here[1] == "ops" && here[2] != "composite") {
      if (there[1] == "configs") complain("\"" target "\": ops know no configuration")
      if (there[1] == "ops" && there[2] != here[2] && there[2] != "common")
        complain("\"" target "\" reaches into another op; only ops/composite may")
    }
  }
  END {
    if (!files) { print "no source files found"; bad = 1 }
    printf "floors: %d files, %s\n", files, bad ? "violations above" : "every include goes down"
    exit bad
  }'
