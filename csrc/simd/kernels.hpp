// The tables of function pointers that the rooms of the core call, one table per room and ISA level. A room takes its table
// once (`kernels(isa).text`), keeps the pointer, and calls through it; a level that has nothing better for a room lends the
// next lower one. Kernel files hold only raw-pointer functions in an anonymous namespace: no templates or inline functions
// shared with other files, so that the linker can never put one level's code where another is called (tests/contract).
#pragma once

#include "simd/isa.hpp"

namespace aitems {

struct ProbeKernels {
  // The macros this file was compiled with, e.g. "x86-64-v4+vnni": proves which level really runs.
  const char* (*compiled_for)();
};

struct TextCnnKernels;   // textcnn_kernels.hpp
struct TextKernels;      // text_kernels.hpp
struct SkipgramKernels;  // skipgram_kernels.hpp
struct AnnKernels;       // ann_kernels.hpp
struct AnnGraphKernels;  // ann_graph_kernels.hpp
struct RerankKernels;    // rerank_kernels.hpp

struct Kernels {
  const ProbeKernels* probe;
  const TextCnnKernels* textcnn;
  const TextKernels* text;
  const SkipgramKernels* skipgram;
  const AnnKernels* ann;
  const AnnGraphKernels* ann_graph;
  const RerankKernels* rerank;
};

const Kernels& kernels(Isa isa);

}  // namespace aitems
