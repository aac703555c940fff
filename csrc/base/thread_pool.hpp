// Splits a loop over threads. The workers are kept between calls; after fork() the child makes its own, because threads do
// not survive a fork. Nested calls and one-thread calls run inline.
#pragma once

#include <cstddef>
#include <functional>

namespace aitems {

// 0 = all cores this process may run on; negative is an InvalidInput error.
int resolve_threads(int threads);

// Calls body(begin, end, slot) over [0, count) in pieces of at most `grain`; slot < threads names the worker, so that a body
// can keep scratch memory per slot. Returns when all pieces are done. The first exception of a body is thrown here.
void parallel_for(std::size_t count, std::size_t grain, int threads,
                  const std::function<void(std::size_t begin, std::size_t end, int slot)>& body);

}  // namespace aitems
