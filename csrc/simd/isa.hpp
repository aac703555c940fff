// The instruction-set levels this engine has kernels for, which of them this machine can run, and which one is used.
// The choice is made once per process, outside every loop. AITEMS_ISA=v3 (say) forces a level.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace aitems {

enum class Isa { kBaseline, kNeon, kV3, kV4, kAmx };  // ascending: a later runnable one is preferred

std::string_view isa_name(Isa isa);
// All levels this binary holds on this architecture, ascending, whether runnable here or not.
std::vector<Isa> compiled_isas();
// The levels this machine (processor, kernel, hypervisor) can run, ascending. Asks the kernel for AMX permission.
const std::vector<Isa>& runnable_isas();
// The level named by AITEMS_ISA, otherwise the best runnable one. A name that cannot run here is a Config error.
Isa active_isa();
// Parses a level's name; "" means active_isa(). A level that cannot run here is a Config error that lists those that can.
Isa require_isa(std::string_view name);

}  // namespace aitems
