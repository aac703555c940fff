#include <immintrin.h>

#include "simd/kernels.hpp"
#include "simd/text_kernels.hpp"

namespace aitems {
namespace {

typedef __m512i Block;

Block load_block(const std::uint8_t* p) { return _mm512_loadu_si512(p); }
Block load_part(const std::uint8_t* p, std::size_t n) { return _mm512_maskz_loadu_epi8(~std::uint64_t{0} >> (64 - n), p); }
void store_block(std::uint8_t* p, Block b) { _mm512_storeu_si512(p, b); }
std::uint64_t high(Block b) { return _mm512_movepi8_mask(b); }
std::uint64_t equal(Block b, std::uint8_t c) { return _mm512_cmpeq_epi8_mask(b, _mm512_set1_epi8(static_cast<char>(c))); }
std::uint64_t below(Block b, std::uint8_t low, std::uint8_t n) {
  return _mm512_cmplt_epu8_mask(_mm512_sub_epi8(b, _mm512_set1_epi8(static_cast<char>(low))), _mm512_set1_epi8(static_cast<char>(n)));
}
Block to_lower(Block b) { return _mm512_mask_add_epi8(b, below(b, 'A', 26), b, _mm512_set1_epi8(32)); }

}  // namespace
}  // namespace aitems

namespace aitems {
#include "simd/text_scan.inc"
extern const TextKernels kText_v4;
const TextKernels kText_v4 = {scan};
}  // namespace aitems
