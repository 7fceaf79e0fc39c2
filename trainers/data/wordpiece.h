// WordPiece (BERT): basic tokenization into words and punctuation, then greedy longest match.
#pragma once

#include <string>
#include <string_view>

#include "trainers/data/tokenizer.h"

namespace basis::trainers {

// `vocab_txt`: one token a line, the line number is its id; needs [UNK]. `lower_case` lower-cases and strips
// accents (unicode.h), as BERT's uncased models do.
TokenizerPtr parse_wordpiece(std::string_view vocab_txt, bool lower_case, const std::string& name);

}  // namespace basis::trainers
