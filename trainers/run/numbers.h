// Numbers as people read them.
#pragma once

#include <string>

namespace basis::trainers {

std::string with_thousands(double value, int decimals = 0);  // 12345.5, 1 as "12,345.5"
std::string compact(double value);                           // an axis's tick: "0", "2,500", "12.5k", "1.5M"
std::string format_count(double value);                      // three digits: "812", "12.3k", "4.56M"
std::string format_duration(double seconds);                 // "48s", "12m05s", "3h07m", "2d04h"

}  // namespace basis::trainers
