#include <immintrin.h>

#include "simd/kernels.hpp"
#include "simd/text_kernels.hpp"

namespace aitems {
namespace {

struct Block {
  __m256i low, high;
};

Block load_block(const std::uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
Block load_part(const std::uint8_t* p, std::size_t n) {
  alignas(32) std::uint8_t bytes[64] = {};
  __builtin_memcpy(bytes, p, n);
  return load_block(bytes);
}
void store_block(std::uint8_t* p, Block b) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), b.low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), b.high);
}
std::uint64_t join(__m256i low, __m256i high) {
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(low)) |
         static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm256_movemask_epi8(high))) << 32;
}
std::uint64_t high(Block b) { return join(b.low, b.high); }
std::uint64_t equal(Block b, std::uint8_t c) {
  const __m256i v = _mm256_set1_epi8(static_cast<char>(c));
  return join(_mm256_cmpeq_epi8(b.low, v), _mm256_cmpeq_epi8(b.high, v));
}
__m256i within(__m256i x, std::uint8_t low, std::uint8_t n) {  // unsigned comparison: x - low <= n - 1
  const __m256i shifted = _mm256_sub_epi8(x, _mm256_set1_epi8(static_cast<char>(low)));
  return _mm256_cmpeq_epi8(_mm256_min_epu8(shifted, _mm256_set1_epi8(static_cast<char>(n - 1))), shifted);
}
std::uint64_t below(Block b, std::uint8_t low, std::uint8_t n) { return join(within(b.low, low, n), within(b.high, low, n)); }
Block to_lower(Block b) {
  const __m256i d = _mm256_set1_epi8(32);
  return {_mm256_add_epi8(b.low, _mm256_and_si256(within(b.low, 'A', 26), d)),
          _mm256_add_epi8(b.high, _mm256_and_si256(within(b.high, 'A', 26), d))};
}

}  // namespace
}  // namespace aitems

namespace aitems {
#include "simd/text_scan.inc"
extern const TextKernels kText_v3;
const TextKernels kText_v3 = {scan};
}  // namespace aitems
