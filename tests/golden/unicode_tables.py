"""Writes trainers/data/unicode_tables.cpp from Python's unicodedata:

    python3 tests/golden/unicode_tables.py > trainers/data/unicode_tables.cpp
"""
import textwrap
import unicodedata

IDEOGRAPHS = [(0xF900, 0xFAD9), (0x2F800, 0x2FA1D)]


def fold(c):
    """NFD, without nonspacing marks, in lower case."""
    letters = [x for x in unicodedata.normalize("NFD", chr(c)) if unicodedata.category(x) != "Mn"]
    return "".join(x.lower() for x in letters)


def code_points():
    return (c for c in range(0x110000) if not 0xD800 <= c < 0xE000)


def ranges(categories):
    out = []
    for c in code_points():
        if not unicodedata.category(chr(c)).startswith(categories):
            continue
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def runs(single):
    """Greedy: the longest run from each letter on, every letter or every second, moving along or to one letter."""
    keys, out = sorted(single), []
    while keys:
        best = [keys[0]], 1, False
        for step in (1, 2):
            for moves in (True, False):
                run = [keys[0]]
                while len(run) < 128 and single.get(run[-1] + step) == single[keys[0]] + moves * step * len(run):
                    run.append(run[-1] + step)
                if len(run) > len(best[0]):
                    best = run, step, moves
        run, step, moves = best
        out.append((run[0], run[-1], step, single[run[0]], moves))
        keys = [k for k in keys if k not in set(run)]
    return out


def array(kind, name, rows):
    print(f"constexpr {kind} {name}[] = {{\n" + textwrap.fill(", ".join(rows), 118) + "};\n")


single, several = {}, {}
for c in code_points():
    ideograph = any(a <= c <= b for a, b in IDEOGRAPHS)
    if c < 128 or ideograph or 0xAC00 <= c <= 0xD7A3 or unicodedata.category(chr(c)) == "Mn" or fold(c) == chr(c):
        continue
    if len(fold(c)) == 1:
        single[c] = ord(fold(c))
    else:
        several[c] = [ord(x) for x in fold(c)]

print("// Written by tests/golden/unicode_tables.py from Unicode " + unicodedata.unidata_version + ".")
print('#include "trainers/data/unicode_tables.h"\n\n// clang-format off\nnamespace basis::trainers {\nnamespace {\n')
for name, categories in (("marks", "Mn"), ("punctuation", "P"), ("control", ("Cc", "Cf", "Co"))):
    array("CodeRange", name, [f"{{{a:#x},{b:#x}}}" for a, b in ranges(categories)])
array("FoldRun", "runs", [f"{{{a:#x},{b:#x},{s},{t:#x},{int(m)}}}" for a, b, s, t, m in runs(single)])
array("FoldSeveral", "several", [f"{{{c:#x},{{{','.join(f'{x:#x}' for x in to)}}}}}" for c, to in several.items()])
blocks = []
for first, last in IDEOGRAPHS:
    text = "".join(fold(c) for c in range(first, last + 1))
    assert len(text) == last + 1 - first
    lines = "\n".join(f'U"{text[i:i + 50]}"' for i in range(0, len(text), 50))
    blocks.append(f"{{{first:#x},\n{lines}}}")
print("constexpr FoldIdeographs ideographs[] = {\n" + ",\n".join(blocks) + "};\n")
print("// clang-format on\n}  // namespace\n")
for kind, name, rows in (("CodeRange", "kMarks", "marks"), ("CodeRange", "kPunctuation", "punctuation"),
                         ("CodeRange", "kControl", "control"), ("FoldRun", "kFoldRuns", "runs"),
                         ("FoldSeveral", "kFoldSeveral", "several"), ("FoldIdeographs", "kFoldIdeographs", "ideographs")):
    print(f"const std::span<const {kind}> {name} = {rows};")
print("\n}  // namespace basis::trainers")
