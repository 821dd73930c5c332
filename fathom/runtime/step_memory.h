// StepMemory: the arrays that a step exchanges with its device, at fixed addresses, in one block
// that one copy moves. Two host blocks take turns: the host writes the next step's while the device
// may still read this one's. On the CPU all blocks are one.
//
// Arrays are placed before allocate(); those of variable length last, since a copy ends where the
// last written element does.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "fathom/core/device_queue.h"
#include "fathom/core/tensor.h"

namespace fathom::runtime {

template <class T>
class StepArray {
 public:
  int32_t size() const { return size_; }
  int64_t capacity() const { return capacity_; }

 private:
  friend class StepMemory;
  int64_t offset_ = 0;
  int64_t capacity_ = 0;
  int32_t size_ = 0;
};

class StepMemory {
 public:
  template <class T>
  StepArray<T> place(int64_t capacity) {
    constexpr int64_t kAlign = 16;
    StepArray<T> array;
    array.offset_ = bytes_;
    array.capacity_ = capacity;
    bytes_ += (capacity * static_cast<int64_t>(sizeof(T)) + kAlign - 1) / kAlign * kAlign;
    return array;
  }
  Result<void> allocate(MemoryLedger& ledger, Device device);

  // Nothing is written yet; `turn` 0 or 1 chooses the host block.
  void begin(int turn) {
    turn_ = turn;
    used_ = 0;
  }
  template <class T>
  void clear(StepArray<T>& array) {
    array.size_ = 0;
  }
  template <class T>
  void push(StepArray<T>& array, T value) {
    CHECK(array.size_ < array.capacity_, "a step larger than its capacity of {}", array.capacity_);
    host(array, turn_)[array.size_++] = value;
    written(array);
  }
  template <class T>
  void append(StepArray<T>& array, std::span<const T> values) {
    CHECK(
        std::ssize(values) <= array.capacity_ - array.size_,
        "a step larger than its capacity of {}",
        array.capacity_
    );
    std::copy(values.begin(), values.end(), host(array, turn_) + array.size_);
    array.size_ += static_cast<int32_t>(values.size());
    written(array);
  }
  template <class T>
  T* host(const StepArray<T>& array, int turn) const {
    return reinterpret_cast<T*>(host_base(turn) + array.offset_);
  }
  // The first n elements, in device memory.
  template <class T>
  Tensor device(const StepArray<T>& array, DType dtype, int64_t n) const {
    return Tensor::of(device_base_ + array.offset_, dtype, device_, {n});
  }

  // What was written since begin().
  void upload(DeviceQueue& queue) { queue.upload(device_base_, host_base(turn_), used_); }
  // The first n elements of an array, and all arrays before it.
  template <class T>
  void download(DeviceQueue& queue, const StepArray<T>& array, int64_t n) {
    const int64_t bytes = array.offset_ + n * static_cast<int64_t>(sizeof(T));
    queue.download(host_base(turn_), device_base_, bytes);
  }

 private:
  template <class T>
  void written(const StepArray<T>& array) {
    used_ = std::max(used_, array.offset_ + int64_t{array.size_} * static_cast<int64_t>(sizeof(T)));
  }
  uint8_t* host_base(int turn) const {
    return static_cast<uint8_t*>(blocks_[static_cast<size_t>(turn)].data());
  }

  Device device_ = {};
  std::array<HostBlock, 2> blocks_;
  Buffer memory_;  // the device's
  uint8_t* device_base_ = nullptr;
  int64_t bytes_ = 0, used_ = 0;
  int turn_ = 0;
};

}  // namespace fathom::runtime
