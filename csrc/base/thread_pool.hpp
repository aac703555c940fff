// Splits a loop over threads. The workers are kept between calls; after fork() the child makes its own, because threads do
// not survive a fork. Nested calls and one-thread calls run inline.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>

namespace aitems {

// 0 = all cores this process may run on; negative is an InvalidInput error.
int resolve_threads(int threads);

// Calls body(begin, end, slot) over [0, count) in pieces of at most `grain`; slot < threads names the worker, so that a body
// can keep scratch memory per slot. Returns when all pieces are done. The first exception of a body is thrown here.
void parallel_for(std::size_t count, std::size_t grain, int threads,
                  const std::function<void(std::size_t begin, std::size_t end, int slot)>& body);

// Lets another thread stop the loops that this one starts: while the scope lives, a loop whose flag is set throws Cancelled
// before its next piece.
class CancelScope {
 public:
  explicit CancelScope(const std::atomic<bool>& flag);
  ~CancelScope();
  CancelScope(const CancelScope&) = delete;
  CancelScope& operator=(const CancelScope&) = delete;

 private:
  const std::atomic<bool>* before_;
};
struct Cancelled : std::exception {
  const char* what() const noexcept override { return "cancelled"; }
};

}  // namespace aitems
