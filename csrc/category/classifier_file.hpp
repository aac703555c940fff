// A classifier as one file that can be read without Python: what `aitems export triton` writes for the native backend. A section
// "parts" with everything small, one section a tensor, all checksummed (base/section_file.hpp).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/section_file.hpp"
#include "category/classifier.hpp"

namespace aitems::category {

// A request and what was answered where the file was written; a reader that answers otherwise must not serve.
struct Recorded {
  std::vector<std::string> titles;
  std::vector<std::optional<std::string>> malls;  // none, or one a title
  int32_t k = 0;
  std::vector<int32_t> labels;       // (titles, k)
  std::vector<float> probabilities;  // (titles, k)
  std::vector<uint8_t> abstained;
};

void write_classifier(const std::string& path, const ClassifierSpec& spec, const std::vector<Recorded>& recorded);

struct OpenedClassifier {
  std::unique_ptr<Classifier> classifier;
  std::vector<Recorded> recorded;
};
// Throws where the file is damaged or of another version, and where it does not answer as recorded.
OpenedClassifier open_classifier(const std::string& path, textcnn::Mode mode, Isa isa);

}  // namespace aitems::category
