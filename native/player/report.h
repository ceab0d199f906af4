// The player's output: one line of JSON an event, on standard output, flushed at once. One thread at a time.

#pragma once

#include <initializer_list>
#include <string>
#include <utility>
#include <variant>

namespace seekcache::player {

// A number is printed with three decimals.
using Field = std::variant<double, bool, long long, std::string>;

void report(const char *event, std::initializer_list<std::pair<const char *, Field>> fields = {});

}  // namespace seekcache::player
