#include "core/utf8.h"

#include <gtest/gtest.h>

namespace basis::core {
namespace {

TEST(Utf8, WhatCouldDriveATerminalIsWrittenOut) {
  EXPECT_EQ(printable("caf\xc3\xa9\t\xe6\x97\xa5\n"), "caf\xc3\xa9\t\xe6\x97\xa5\n");
  EXPECT_EQ(printable("a\x1b[2J\r\x7f"), "a\\x1b[2J\\x0d\\x7f");
  EXPECT_EQ(printable(std::string_view("\0b", 2)), "\\x00b");
  EXPECT_EQ(printable("\xc2\x9b"
                      "31m"),
            "\\xc2\\x9b31m");                                        // CSI as one character
  EXPECT_EQ(printable("\x9b\xc3(\xff"), "\\x9b\\xc3(\\xff");         // no UTF-8
  EXPECT_EQ(printable("\xed\xa0\x80\xe6"), "\\xed\\xa0\\x80\\xe6");  // a surrogate, a cut sequence
}

TEST(Utf8, ASequenceCutShortIsHeldBack) {
  EXPECT_EQ(complete_utf8(""), 0u);
  EXPECT_EQ(complete_utf8("abc"), 3u);
  EXPECT_EQ(complete_utf8("a\xc3"), 1u);
  EXPECT_EQ(complete_utf8("a\xc3\xa9"), 3u);
  EXPECT_EQ(complete_utf8("a\xf0\x9f\x98"), 1u);
  EXPECT_EQ(complete_utf8("\xf0\x9f\x98\x80"), 4u);
  EXPECT_EQ(complete_utf8("\x80\x80\x80\x80"), 4u);  // never becomes valid: nothing to wait for
}

}  // namespace
}  // namespace basis::core
