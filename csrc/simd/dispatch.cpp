// The one place that looks at the processor. Everything else asks for a level's table.
#include <cstdlib>
#include <string>

#if defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "base/error.hpp"
#include "simd/kernels.hpp"

namespace aitems {

extern const ProbeKernels kProbe_baseline;
extern const AnnKernels kAnn_baseline;
extern const AnnGraphKernels kAnnGraph_baseline;
extern const TextCnnKernels kTextCnn_baseline;
extern const SkipgramKernels kSkipgram_baseline;
extern const TextKernels kText_baseline;
extern const RerankKernels kRerank_baseline;
#if defined(__x86_64__)
extern const ProbeKernels kProbe_v3, kProbe_v4, kProbe_amx;
extern const AnnKernels kAnn_v3, kAnn_v4, kAnn_amx;
extern const AnnGraphKernels kAnnGraph_v3, kAnnGraph_v4;
extern const SkipgramKernels kSkipgram_v3, kSkipgram_v4;
extern const TextCnnKernels kTextCnn_v3, kTextCnn_v4, kTextCnn_amx;
extern const TextKernels kText_v3, kText_v4;
extern const RerankKernels kRerank_v3, kRerank_v4;
#elif defined(__aarch64__)
extern const ProbeKernels kProbe_neon;
#endif

namespace {

#if defined(__x86_64__)
bool amx_permitted() {
  // Linux hands out the 8 KiB tile state only to processes that ask: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool amx_int8_present() {
  unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
  __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  constexpr unsigned kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;
  return (edx & kAmxTile) && (edx & kAmxInt8);
}
#endif

std::vector<Isa> detect() {
  std::vector<Isa> found{Isa::kBaseline};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                  __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  if (v3) found.push_back(Isa::kV3);
  if (v4) found.push_back(Isa::kV4);
  if (v4 && amx_int8_present() && amx_permitted()) found.push_back(Isa::kAmx);
#elif defined(__aarch64__)
  found.push_back(Isa::kNeon);
#endif
  return found;
}

std::string names(const std::vector<Isa>& isas) {
  std::string out;
  for (Isa isa : isas) out += (out.empty() ? "" : ", ") + std::string(isa_name(isa));
  return out;
}

}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kBaseline: return "baseline";
    case Isa::kNeon: return "neon";
    case Isa::kV3: return "v3";
    case Isa::kV4: return "v4";
    case Isa::kAmx: return "amx";
  }
  return "?";
}

std::vector<Isa> compiled_isas() {
#if defined(__x86_64__)
  return {Isa::kBaseline, Isa::kV3, Isa::kV4, Isa::kAmx};
#elif defined(__aarch64__)
  return {Isa::kBaseline, Isa::kNeon};
#else
  return {Isa::kBaseline};
#endif
}

const std::vector<Isa>& runnable_isas() {
  static const std::vector<Isa> found = detect();
  return found;
}

Isa require_isa(std::string_view name) {
  if (name.empty()) return active_isa();
  for (Isa isa : runnable_isas())
    if (isa_name(isa) == name) return isa;
  throw Error(ErrorKind::kConfig, "ISA level '" + std::string(name) + "' cannot run here; this machine runs: " +
                                      names(runnable_isas()) + " (AITEMS_ISA or the isa argument takes one of these)");
}

Isa active_isa() {
  // Read once. A bad value throws at every call, so that no caller runs on a level nobody asked for.
  static const std::string forced = [] {
    const char* value = std::getenv("AITEMS_ISA");
    return std::string(value ? value : "");
  }();
  return forced.empty() ? runnable_isas().back() : require_isa(forced);
}

const Kernels& kernels(Isa isa) {
  static const Kernels baseline{&kProbe_baseline, &kTextCnn_baseline, &kText_baseline, &kSkipgram_baseline, &kAnn_baseline, &kAnnGraph_baseline, &kRerank_baseline};
#if defined(__x86_64__)
  static const Kernels v3{&kProbe_v3, &kTextCnn_v3, &kText_v3, &kSkipgram_v3, &kAnn_v3, &kAnnGraph_v3, &kRerank_v3};
  static const Kernels v4{&kProbe_v4, &kTextCnn_v4, &kText_v4, &kSkipgram_v4, &kAnn_v4, &kAnnGraph_v4, &kRerank_v4};
  static const Kernels amx{&kProbe_amx, &kTextCnn_amx, &kText_v4, &kSkipgram_v4, &kAnn_amx, &kAnnGraph_v4, &kRerank_v4};
  switch (isa) {
    case Isa::kV3: return v3;
    case Isa::kV4: return v4;
    case Isa::kAmx: return amx;
    default: return baseline;
  }
#elif defined(__aarch64__)
  static const Kernels neon{&kProbe_neon, &kTextCnn_baseline, &kText_baseline, &kSkipgram_baseline, &kAnn_baseline, &kAnnGraph_baseline, &kRerank_baseline};
  return isa == Isa::kNeon ? neon : baseline;
#else
  (void)isa;
  return baseline;
#endif
}

}  // namespace aitems
