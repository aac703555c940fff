#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>

#include "base/error.hpp"
#include "bindings/register.hpp"
#include "rerank/diversity.hpp"
#include "rerank/page.hpp"

namespace py = pybind11;

namespace aitems::bindings {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;
template <class T>
using Maybe = std::optional<Array<T>>;

template <class T>
const T* column(const Array<T>& values, std::size_t size, const char* name) {
  if (values.ndim() != 1 || static_cast<std::size_t>(values.size()) != size)
    throw Error(ErrorKind::kInvalidInput, std::string(name) + " must be 1-D with " + std::to_string(size) + " values, got " +
                                              std::to_string(values.size()) + " in " + std::to_string(values.ndim()) + "-D");
  return values.data();
}

template <class T>
const T* column(const Maybe<T>& values, std::size_t size, const char* name) {
  return values ? column(*values, size, name) : nullptr;
}

void check_rows(const std::int32_t* rows, std::size_t count, std::size_t size, const char* name) {
  for (std::size_t i = 0; i < count; ++i)
    if (rows[i] < 0 || static_cast<std::size_t>(rows[i]) >= size)
      throw Error(ErrorKind::kInvalidInput, std::string(name) + " must hold rows from 0 to " + std::to_string(size) + " (exclusive), got " +
                                                std::to_string(rows[i]));
}

template <class T, class U>
py::array_t<T> array_of(const std::vector<U>& values) {
  py::array_t<T> out(static_cast<py::ssize_t>(values.size()));
  std::copy(values.begin(), values.end(), out.mutable_data());
  return out;
}

py::tuple fill(const Array<double>& weights, const Array<std::int32_t>& items, const Array<double>& scores,
               const Array<std::int32_t>& organic, const Array<std::int32_t>& ads, const Array<std::uint8_t>& levels, int relax_levels,
               const py::list& spacings, const py::object& cold, const py::object& ad_rules, const py::object& exploration,
               const Maybe<float>& pctr, const Maybe<float>& pcvr, const Maybe<float>& price, const Maybe<float>& bid) {
  PageInput input;
  const auto n = static_cast<std::size_t>(items.size());
  input.k = static_cast<std::size_t>(weights.size());
  input.weights = column(weights, input.k, "weights");
  input.items = column(items, n, "items");
  input.scores = column(scores, n, "scores");
  input.organic_count = static_cast<std::size_t>(organic.size());
  input.organic = column(organic, input.organic_count, "organic");
  check_rows(input.organic, input.organic_count, n, "organic");
  input.ads_count = static_cast<std::size_t>(ads.size());
  input.ads = column(ads, input.ads_count, "ads");
  check_rows(input.ads, input.ads_count, n, "ads");
  input.levels = column(levels, n, "levels");
  input.relax_levels = relax_levels;
  input.pctr = column(pctr, n, "pctr");
  input.pcvr = column(pcvr, n, "pcvr");
  input.price = column(price, n, "price");
  input.bid = column(bid, n, "bid");
  std::vector<Array<std::int32_t>> kept;  // converted columns live as long as the call
  for (const py::handle& rule : spacings) {
    auto [codes, by_item, before, cap, window, level] = rule.cast<std::tuple<Array<std::int32_t>, bool, std::vector<std::int32_t>, std::size_t, std::size_t, int>>();
    if (cap < 1 || window < 1) throw Error(ErrorKind::kInvalidInput, "cap and window must be at least 1");
    kept.push_back(codes);
    const std::size_t size = by_item ? static_cast<std::size_t>(codes.size()) : n;
    if (by_item) check_rows(input.items, n, size, "items");
    if (before.size() >= window) before.erase(before.begin(), before.end() - static_cast<std::ptrdiff_t>(window - 1));
    input.spacings.push_back({column(kept.back(), size, "codes"), cap, window, level, by_item ? input.items : nullptr, std::move(before)});
  }
  ColdQuota quota{};
  Array<std::uint8_t> is_cold;
  if (!cold.is_none()) {
    double share, floor, dither;
    std::tie(is_cold, share, floor, dither) = cold.cast<std::tuple<Array<std::uint8_t>, double, double, double>>();
    quota = {column(is_cold, n, "cold"), share, floor, dither};
    input.cold = &quota;
  }
  AdRules rules{};
  if (!ad_rules.is_none()) {
    std::tie(rules.gap, rules.max_ads, rules.top_slot_multiple, rules.organic_weight, rules.organic_loss_budget) =
        ad_rules.cast<std::tuple<std::size_t, std::size_t, double, double, double>>();
    input.ad_rules = &rules;
  }
  Exploration explore{};
  Array<std::int32_t> pool;
  Array<double> chance;
  Array<std::uint8_t> slots;
  if (!exploration.is_none()) {
    std::tie(pool, chance, slots, explore.rate, explore.floor, explore.ceiling, explore.seed) =
        exploration.cast<std::tuple<Array<std::int32_t>, Array<double>, Array<std::uint8_t>, double, double, double, std::uint64_t>>();
    explore.pool_size = static_cast<std::size_t>(pool.size());
    explore.pool = column(pool, explore.pool_size, "pool");
    check_rows(explore.pool, explore.pool_size, n, "pool");
    explore.chance = column(chance, explore.pool_size, "chance");
    explore.slots = column(slots, input.k, "slots");
    input.exploration = &explore;
  }
  const Page page = fill_page(input);
  return py::make_tuple(array_of<std::int64_t>(page.rows), array_of<std::uint8_t>(page.relaxed), array_of<bool>(page.is_ad),
                        array_of<float>(page.propensity), page.clicks, page.revenue, page.cold_share, page.cold_missed,
                        page.organic_loss);
}

Vectors checked(const Array<float>& vectors, const Array<std::int32_t>& rows, const Maybe<std::uint8_t>& present) {
  if (vectors.ndim() != 2)
    throw Error(ErrorKind::kInvalidInput, "vectors must be 2-D, not " + std::to_string(vectors.ndim()) + "-D");
  const auto n = static_cast<std::size_t>(rows.size()), size = static_cast<std::size_t>(vectors.shape(0));
  check_rows(column(rows, n, "rows"), n, size, "rows");
  return {vectors.data(), static_cast<std::size_t>(vectors.shape(1)), rows.data(), column(present, size, "present")};
}

}  // namespace

void register_rerank(py::module_& module) {
  py::module_ rerank = module.def_submodule("rerank", "Filling a page, and greedy orders for variety.");
  rerank.def("fill_page", &fill, py::arg("weights").noconvert(), py::arg("items").noconvert(), py::arg("scores").noconvert(),
             py::arg("organic").noconvert(), py::arg("ads").noconvert(), py::arg("levels").noconvert(), py::arg("relax_levels"),
             py::arg("spacings"), py::arg("cold"), py::arg("ad_rules"), py::arg("exploration"), py::arg("pctr"), py::arg("pcvr"),
             py::arg("price"), py::arg("bid"));
  rerank.def(
      "falling_order",
      [](const Array<double>& scores) {
        const auto n = static_cast<std::size_t>(scores.size());
        return array_of<std::int32_t>(falling_order(column(scores, n, "scores"), n));
      },
      py::arg("scores").noconvert());
  rerank.def(
      "relevance",
      [](const Array<double>& scores, const Array<std::int32_t>& rows) {
        const auto n = static_cast<std::size_t>(rows.size()), size = static_cast<std::size_t>(scores.size());
        check_rows(column(rows, n, "rows"), n, size, "rows");
        return array_of<double>(relevance(column(scores, size, "scores"), rows.data(), n));
      },
      py::arg("scores").noconvert(), py::arg("rows").noconvert());
  rerank.def(
      "put_first",
      [](const Array<std::int32_t>& rows, const Array<std::int32_t>& organic, std::size_t size) {
        const auto n = static_cast<std::size_t>(organic.size()), first = static_cast<std::size_t>(rows.size());
        check_rows(column(organic, n, "organic"), n, size, "organic");
        check_rows(column(rows, first, "rows"), first, size, "rows");
        return array_of<std::int32_t>(put_first(rows.data(), first, organic.data(), n, size));
      },
      py::arg("rows").noconvert(), py::arg("organic").noconvert(), py::arg("size"));
  rerank.def(
      "chances_to_be_best",
      [](const Array<double>& means, const Array<double>& deviations) {
        const auto n = static_cast<std::size_t>(means.size());
        return array_of<double>(chances_to_be_best(column(means, n, "means"), column(deviations, n, "deviations"), n));
      },
      py::arg("means").noconvert(), py::arg("deviations").noconvert());
  rerank.def(
      "mmr",
      [](const Array<double>& relevance, const Array<float>& vectors, const Array<std::int32_t>& rows, const Maybe<std::uint8_t>& present,
         std::size_t k, double strength, double missing_similarity, const std::string& isa) {
        const Vectors checked_vectors = checked(vectors, rows, present);
        const auto n = static_cast<std::size_t>(rows.size());
        return array_of<std::int32_t>(
            mmr(column(relevance, n, "relevance"), n, checked_vectors, k, strength, missing_similarity, require_isa(isa)));
      },
      py::arg("relevance").noconvert(), py::arg("vectors").noconvert(), py::arg("rows").noconvert(), py::arg("present"), py::arg("k"),
      py::arg("strength"), py::arg("missing_similarity"), py::arg("isa") = "");
  rerank.def(
      "dpp",
      [](const Array<double>& relevance, const Array<float>& vectors, const Array<std::int32_t>& rows, const Maybe<std::uint8_t>& present,
         std::size_t k, double strength, double missing_similarity, std::size_t window, double floor, const std::string& isa) {
        const Vectors checked_vectors = checked(vectors, rows, present);
        const auto n = static_cast<std::size_t>(rows.size());
        if (window < 1 || !(floor > 0)) throw Error(ErrorKind::kInvalidInput, "window must be at least 1 and floor above 0");
        return array_of<std::int32_t>(dpp(column(relevance, n, "relevance"), n, checked_vectors, k, strength, missing_similarity, window,
                                          floor, require_isa(isa)));
      },
      py::arg("relevance").noconvert(), py::arg("vectors").noconvert(), py::arg("rows").noconvert(), py::arg("present"), py::arg("k"),
      py::arg("strength"), py::arg("missing_similarity"), py::arg("window"), py::arg("floor"), py::arg("isa") = "");
  rerank.def(
      "calibrated",
      [](const Array<double>& relevance, const Array<std::int32_t>& groups, const Array<double>& target, std::size_t k, double strength) {
        const auto n = static_cast<std::size_t>(relevance.size()), size = static_cast<std::size_t>(target.size());
        const std::int32_t* codes = column(groups, n, "groups");
        for (std::size_t i = 0; i < n; ++i)
          if (codes[i] >= static_cast<std::int32_t>(size)) throw Error(ErrorKind::kInvalidInput, "groups must be below " + std::to_string(size));
        return array_of<std::int32_t>(calibrated(column(relevance, n, "relevance"), codes, n, column(target, size, "target"), size, k, strength));
      },
      py::arg("relevance").noconvert(), py::arg("groups").noconvert(), py::arg("target").noconvert(), py::arg("k"), py::arg("strength"));
}

}  // namespace aitems::bindings
