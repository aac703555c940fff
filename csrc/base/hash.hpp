// XXH64 (Yann Collet's xxHash, 64-bit form, specified in its xxhash_spec.md): a checksum against damage, not against forgery.
#pragma once

#include <cstddef>
#include <cstdint>

namespace aitems {

std::uint64_t xxh64(const void* data, std::size_t bytes, std::uint64_t seed = 0);

}  // namespace aitems
