#include "simd/ann_graph_kernels.hpp"

namespace {

void score(const aitems::AnnRowCodes* table, const aitems::AnnQuery* query, const std::uint32_t* rows, std::int32_t count, float* scores) {
  for (std::int32_t i = 0; i < count; ++i) {
    const std::uint8_t* codes = table->codes + static_cast<std::size_t>(rows[i]) * static_cast<std::size_t>(table->stride);
    std::int32_t sum = -query->correction;
    for (std::int32_t d = 0; d < table->stride; ++d) sum += codes[d] * query->codes[d];
    scores[i] = static_cast<float>(sum) * table->scales[table->levels[rows[i]]];
    if (table->biases) scores[i] += table->biases[rows[i]] * query->bias_factor;
  }
}

}  // namespace

namespace aitems {
extern const AnnGraphKernels kAnnGraph_baseline;
const AnnGraphKernels kAnnGraph_baseline = {score};
}  // namespace aitems
