// A read-only array that either owns its memory or lies in a mapped file. Whoever holds columns of a file holds the file too.
#pragma once

#include <cstddef>
#include <utility>

#include "base/aligned_buffer.hpp"

namespace aitems {

template <class T>
class Column {
 public:
  Column() = default;
  explicit Column(AlignedBuffer<T> owned) : owned_(std::move(owned)), data_(owned_.data()), size_(owned_.size()) {}
  Column(const T* mapped, std::size_t size) : data_(mapped), size_(size) {}

  const T* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  std::size_t bytes() const noexcept { return size_ * sizeof(T); }
  bool empty() const noexcept { return size_ == 0; }
  const T& operator[](std::size_t i) const noexcept { return data_[i]; }

 private:
  AlignedBuffer<T> owned_;
  const T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace aitems
