// Workspace: a bump arena for the intermediates of one step. Sized once by the largest step; the
// same sequence of allocations gives the same addresses, which is what CUDA graphs need. Not
// thread-safe: one user, the step thread.
//
//   Workspace::Mark mark(ws);             // everything allocated below is released at the end of
//   the scope Tensor t = ws.alloc(DType::f32, {T, C});
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "fathom/core/buffer.h"
#include "fathom/core/tensor.h"

namespace fathom {

class Workspace {
 public:
  static constexpr int64_t kAlign = 256;

  Workspace() = default;
  explicit Workspace(Buffer buffer) : buffer_(std::move(buffer)) {}

  // Uninitialised. CHECKs that the arena is large enough.
  Tensor alloc(DType dtype, std::initializer_list<int64_t> dims) {
    Tensor t = Tensor::of(nullptr, dtype, buffer_.device(), dims);
    const int64_t bytes = (t.bytes() + kAlign - 1) / kAlign * kAlign;
    CHECK(
        used_ + bytes <= buffer_.bytes(),
        "workspace of {} bytes: {} used, {} wanted for {}",
        buffer_.bytes(),
        used_,
        bytes,
        t.describe()
    );
    t.data = static_cast<uint8_t*>(buffer_.data()) + used_;
    used_ += bytes;
    peak_ = std::max(peak_, used_);
    return t;
  }

  int64_t used() const { return used_; }
  int64_t peak() const { return peak_; }
  int64_t capacity() const { return buffer_.bytes(); }

  class Mark {
   public:
    explicit Mark(Workspace& workspace) : workspace_(workspace), used_(workspace.used_) {}
    ~Mark() { workspace_.used_ = used_; }
    Mark(const Mark&) = delete;
    Mark& operator=(const Mark&) = delete;

   private:
    Workspace& workspace_;
    int64_t used_;
  };

 private:
  Buffer buffer_;
  int64_t used_ = 0;
  int64_t peak_ = 0;
};

}  // namespace fathom
