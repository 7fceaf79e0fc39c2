// What WordPiece asks of Unicode 14: categories, and lower case without accents. The tables are written by
// tests/golden/unicode_tables.py from Python's unicodedata.
#pragma once

#include <string>

namespace basis::trainers {

bool is_mark(char32_t c);         // category Mn: accents that combine with the letter before
bool is_punctuation(char32_t c);  // categories P*, and every ASCII symbol, as in BERT
bool is_control(char32_t c);      // categories Cc, Cf, Co

// Appends c decomposed (NFD), without marks, in lower case: "É" gives "e", a Hangul syllable its letters, a mark
// nothing.
void append_folded(std::u32string& text, char32_t c);

}  // namespace basis::trainers
