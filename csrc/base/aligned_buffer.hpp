// A zero-filled array aligned for any vector load, with 64 readable bytes behind its end so that kernels may over-read. A large
// one asks the kernel for huge pages: random rows of a 100 MB table miss the TLB otherwise.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

namespace aitems {

template <class T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T>, "AlignedBuffer holds plain data only");

 public:
  static constexpr std::size_t kAlignment = 64;
  static constexpr std::size_t kPaddingBytes = 64;
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;

  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size) : size_(size) {
    if (size > (static_cast<std::size_t>(-1) - 2 * kPaddingBytes) / sizeof(T)) throw std::bad_alloc();
    std::size_t bytes = (size * sizeof(T) + kPaddingBytes + kAlignment - 1) / kAlignment * kAlignment;
    const std::size_t alignment = bytes >= 2 * kHugePage ? kHugePage : kAlignment;
    data_ = {static_cast<T*>(::operator new(bytes, std::align_val_t{alignment})), Free{alignment}};
#if defined(MADV_HUGEPAGE)
    if (alignment == kHugePage) madvise(data_.get(), bytes / kHugePage * kHugePage, MADV_HUGEPAGE);  // advice: failure is no error
#endif
    std::memset(static_cast<void*>(data_.get()), 0, bytes);
  }

  T* data() noexcept { return data_.get(); }
  const T* data() const noexcept { return data_.get(); }
  std::size_t size() const noexcept { return size_; }
  std::size_t bytes() const noexcept { return size_ * sizeof(T); }
  T& operator[](std::size_t i) noexcept { return data_.get()[i]; }
  const T& operator[](std::size_t i) const noexcept { return data_.get()[i]; }

 private:
  struct Free {
    std::size_t alignment = kAlignment;
    void operator()(T* p) const noexcept { ::operator delete(static_cast<void*>(p), std::align_val_t{alignment}); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace aitems
