#include "base/thread_pool.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/error.hpp"

namespace aitems {
namespace {

thread_local bool inside_pool = false;
thread_local const std::atomic<bool>* cancel_flag = nullptr;

class Pool {
 public:
  // Runs task(slot) on slots 1..slots-1 of the pool and slot 0 on the caller. One loop at a time; a second caller waits.
  void run(int slots, const std::function<void(int)>& task) {
    std::lock_guard<std::mutex> one_loop(run_mutex_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(workers_.size()) < slots - 1) {
        const int slot = static_cast<int>(workers_.size()) + 1;
        workers_.emplace_back([this, slot, seen = generation_]() mutable { work(slot, seen); });
      }
      task_ = &task;
      slots_ = slots;
      pending_ = slots - 1;
      ++generation_;
    }
    wake_.notify_all();
    task(0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return pending_ == 0; });
    task_ = nullptr;
  }

 private:
  void work(int slot, unsigned long seen) {
    inside_pool = true;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return generation_ != seen; });
      seen = generation_;
      if (slot >= slots_) continue;
      const auto* task = task_;
      lock.unlock();
      (*task)(slot);
      lock.lock();
      if (--pending_ == 0) done_.notify_one();
    }
  }

  std::mutex run_mutex_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  const std::function<void(int)>* task_ = nullptr;
  unsigned long generation_ = 0;
  int slots_ = 0;
  int pending_ = 0;
};

// Never destroyed: its threads wait for ever, and joining them at exit could hang an interpreter that is shutting down.
// A child of fork() gets a new one; the parent's copy is left alone because its mutexes may be held.
std::atomic<Pool*> current{nullptr};

Pool& pool() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { current.store(nullptr); });
  (void)registered;
  Pool* found = current.load(std::memory_order_acquire);
  if (found) return *found;
  Pool* fresh = new Pool;
  if (current.compare_exchange_strong(found, fresh, std::memory_order_acq_rel)) return *fresh;
  delete fresh;  // another thread was first; this one has no workers yet
  return *found;
}

}  // namespace

int resolve_threads(int threads) {
  if (threads < 0) throw Error(ErrorKind::kInvalidInput, "threads must be 0 (all cores) or more, got " + std::to_string(threads));
  if (threads > 0) return std::min(threads, 1024);
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

CancelScope::CancelScope(const std::atomic<bool>& flag) : before_(cancel_flag) { cancel_flag = &flag; }
CancelScope::~CancelScope() { cancel_flag = before_; }

void parallel_for(std::size_t count, std::size_t grain, int threads,
                  const std::function<void(std::size_t, std::size_t, int)>& body) {
  const std::atomic<bool>* cancelled = cancel_flag;
  const auto run = [&](std::size_t begin, std::size_t end, int slot) {
    if (cancelled && cancelled->load(std::memory_order_relaxed)) throw Cancelled();
    body(begin, end, slot);
  };
  grain = std::max<std::size_t>(1, grain);
  const std::size_t pieces = (count + grain - 1) / grain;
  const int slots = static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(resolve_threads(threads)), pieces));
  if (slots <= 1 || inside_pool) {
    for (std::size_t p = 0; p < pieces; ++p) run(p * grain, std::min(count, (p + 1) * grain), 0);
    return;
  }
  std::atomic<std::size_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  pool().run(slots, [&](int slot) {
    try {
      for (std::size_t p; (p = next.fetch_add(1, std::memory_order_relaxed)) < pieces;)
        run(p * grain, std::min(count, (p + 1) * grain), slot);
    } catch (...) {
      next.store(pieces, std::memory_order_relaxed);
      std::lock_guard<std::mutex> lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace aitems
