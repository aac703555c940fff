#include "base/thread_pool.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

#include "base/error.hpp"

namespace aitems {
namespace {

TEST(ParallelFor, VisitsEveryIndexOnce) {
  for (std::size_t count : {0u, 1u, 7u, 1000u})
    for (int threads : {0, 1, 2, 5}) {
      std::vector<std::atomic<int>> seen(count);
      parallel_for(count, 3, threads, [&](std::size_t begin, std::size_t end, int slot) {
        EXPECT_LT(slot, resolve_threads(threads));
        for (std::size_t i = begin; i < end; ++i) ++seen[i];
      });
      for (auto& n : seen) EXPECT_EQ(n.load(), 1);
    }
}

TEST(ParallelFor, ThrowsTheFirstError) {
  EXPECT_THROW(parallel_for(100, 1, 4, [](std::size_t, std::size_t, int) { throw Error(ErrorKind::kInvalidInput, "no"); }), Error);
  std::atomic<int> ran{0};
  parallel_for(10, 1, 4, [&](std::size_t, std::size_t, int) { ++ran; });
  EXPECT_EQ(ran.load(), 10);
}

TEST(ParallelFor, CallersOnManyThreadsTakeTurns) {
  std::atomic<int> total{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int r = 0; r < 50; ++r) parallel_for(8, 1, 3, [&](std::size_t, std::size_t, int) { ++total; });
    });
  for (auto& t : callers) t.join();
  EXPECT_EQ(total.load(), 4 * 50 * 8);
}

#if !defined(__SANITIZE_THREAD__)  // that runtime does not support threads after fork
TEST(ParallelFor, WorksInAForkedChild) {
  std::atomic<int> ran{0};
  parallel_for(8, 1, 3, [&](std::size_t, std::size_t, int) { ++ran; });
  const pid_t child = fork();
  if (child == 0) {
    ran = 0;
    parallel_for(8, 1, 3, [&](std::size_t, std::size_t, int) { ++ran; });
    _exit(ran.load() == 8 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif

TEST(ResolveThreads, RejectsNegative) { EXPECT_THROW(resolve_threads(-1), Error); }

}  // namespace
}  // namespace aitems
