#include "simd/isa.hpp"

#include <pybind11/stl.h>

#include "bindings/register.hpp"
#include "simd/kernels.hpp"

namespace py = pybind11;

namespace aitems::bindings {
namespace {

std::vector<std::string> names(const std::vector<Isa>& isas) {
  std::vector<std::string> out;
  for (Isa isa : isas) out.emplace_back(isa_name(isa));
  return out;
}

}  // namespace

void register_isa(py::module_& module) {
  py::module_ isa = module.def_submodule("isa", "Instruction-set levels: what is compiled, runnable and active.");
  isa.def("compiled", [] { return names(compiled_isas()); });
  isa.def("runnable", [] { return names(runnable_isas()); });
  isa.def("active", [] { return std::string(isa_name(active_isa())); });
  isa.def("require", [](const std::string& name) { return std::string(isa_name(require_isa(name))); }, py::arg("name"));
  isa.def("compiled_for", [](const std::string& name) { return std::string(kernels(require_isa(name)).probe->compiled_for()); },
          py::arg("name") = "");
}

}  // namespace aitems::bindings
