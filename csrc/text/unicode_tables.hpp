// The generated tables (make_unicode_tables.py writes unicode_tables.cpp); read them through unicode.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace aitems::text {

extern const std::uint32_t kFlagRuns[], kLower[], kCanonical[], kCompatible[], kCompositions[];
extern const std::size_t kFlagRunsSize, kLowerSize, kCanonicalSize, kCompatibleSize, kCompositionsSize;

}  // namespace aitems::text
