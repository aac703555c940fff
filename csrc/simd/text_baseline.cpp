#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "simd/kernels.hpp"
#include "simd/text_kernels.hpp"

namespace aitems {
namespace {

#if defined(__x86_64__)
struct Block {
  __m128i part[4];
};

Block load_block(const std::uint8_t* p) {
  Block b;
  for (int i = 0; i < 4; ++i) b.part[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * i));
  return b;
}
void store_block(std::uint8_t* p, Block b) {
  for (int i = 0; i < 4; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16 * i), b.part[i]);
}
std::uint64_t bits(__m128i x, int i) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm_movemask_epi8(x))) << (16 * i);
}
std::uint64_t high(Block b) { return bits(b.part[0], 0) | bits(b.part[1], 1) | bits(b.part[2], 2) | bits(b.part[3], 3); }
std::uint64_t equal(Block b, std::uint8_t c) {
  const __m128i v = _mm_set1_epi8(static_cast<char>(c));
  std::uint64_t mask = 0;
  for (int i = 0; i < 4; ++i) mask |= bits(_mm_cmpeq_epi8(b.part[i], v), i);
  return mask;
}
__m128i within(__m128i x, std::uint8_t low, std::uint8_t n) {  // unsigned comparison: x - low <= n - 1
  const __m128i shifted = _mm_sub_epi8(x, _mm_set1_epi8(static_cast<char>(low)));
  return _mm_cmpeq_epi8(_mm_min_epu8(shifted, _mm_set1_epi8(static_cast<char>(n - 1))), shifted);
}
std::uint64_t below(Block b, std::uint8_t low, std::uint8_t n) {
  std::uint64_t mask = 0;
  for (int i = 0; i < 4; ++i) mask |= bits(within(b.part[i], low, n), i);
  return mask;
}
Block to_lower(Block b) {
  for (int i = 0; i < 4; ++i) b.part[i] = _mm_add_epi8(b.part[i], _mm_and_si128(within(b.part[i], 'A', 26), _mm_set1_epi8(32)));
  return b;
}
#else  // any processor; the compiler may vectorise it
struct Block {
  std::uint8_t byte[64];
};

Block load_block(const std::uint8_t* p) {
  Block b;
  __builtin_memcpy(b.byte, p, 64);
  return b;
}
void store_block(std::uint8_t* p, Block b) { __builtin_memcpy(p, b.byte, 64); }
std::uint64_t below(Block b, std::uint8_t low, std::uint8_t n) {
  std::uint64_t mask = 0;
  for (int i = 0; i < 64; ++i) mask |= static_cast<std::uint64_t>(static_cast<std::uint8_t>(b.byte[i] - low) < n) << i;
  return mask;
}
std::uint64_t equal(Block b, std::uint8_t c) { return below(b, c, 1); }
std::uint64_t high(Block b) { return below(b, 0x80, 0x80); }
Block to_lower(Block b) {
  for (int i = 0; i < 64; ++i) b.byte[i] = static_cast<std::uint8_t>(b.byte[i] + (static_cast<std::uint8_t>(b.byte[i] - 'A') < 26 ? 32 : 0));
  return b;
}
#endif
Block load_part(const std::uint8_t* p, std::size_t n) {
  std::uint8_t bytes[64] = {};
  __builtin_memcpy(bytes, p, n);
  return load_block(bytes);
}

}  // namespace
}  // namespace aitems

namespace aitems {
#include "simd/text_scan.inc"
extern const TextKernels kText_baseline;
const TextKernels kText_baseline = {scan};
}  // namespace aitems
