#include "fathom/core/tensor.h"

namespace fathom {

Tensor Tensor::of(void* data, DType dtype, Device device, std::initializer_list<int64_t> dims) {
  CHECK(dims.size() >= 1 && dims.size() <= kMaxRank, "a tensor of rank {}", dims.size());
  Tensor t;
  t.data = data;
  t.dtype = dtype;
  t.device = device;
  t.rank = static_cast<int>(dims.size());
  size_t i = 0;
  for (const int64_t d : dims) {
    CHECK(d >= 0, "dimension {} is {}", i, d);
    t.dims[i++] = d;
  }
  int64_t stride = 1;
  for (i = dims.size(); i-- > 0;) {
    t.strides[i] = stride;
    stride *= t.dims[i];
  }
  return t;
}

int64_t Tensor::elements() const {
  if (rank == 0) return 0;
  int64_t n = 1;
  for (int i = 0; i < rank; ++i) n *= dim(i);
  return n;
}

bool Tensor::contiguous() const {
  int64_t expected = 1;
  for (int i = rank - 1; i >= 0; --i) {
    if (dim(i) != 1 && stride(i) != expected) return false;
    expected *= dim(i);
  }
  return true;
}

Tensor Tensor::slice(int d, int64_t from, int64_t n) const {
  CHECK(d >= 0 && d < rank, "slice of dimension {} of {}", d, describe());
  CHECK(
      from >= 0 && n >= 0 && from + n <= dim(d), "slice [{}, {}) of {}", from, from + n, describe()
  );
  Tensor t = *this;
  const int64_t offset = from * stride(d);
  t.data = static_cast<uint8_t*>(data) + bytes_of(dtype, offset);
  t.dims[static_cast<size_t>(d)] = n;
  return t;
}

Tensor Tensor::row(int64_t i) const {
  CHECK(rank >= 2, "row of {}", describe());
  const Tensor one = slice(0, i, 1);
  Tensor t = one;
  t.rank = rank - 1;
  for (size_t d = 0; d + 1 < static_cast<size_t>(rank); ++d) {
    t.dims[d] = one.dims[d + 1];
    t.strides[d] = one.strides[d + 1];
  }
  return t;
}

Tensor Tensor::reshape(std::initializer_list<int64_t> new_dims) const {
  CHECK(contiguous(), "reshape of {}, which is not contiguous", describe());
  Tensor t = of(data, dtype, device, new_dims);
  CHECK(t.elements() == elements(), "reshape of {} to {}", describe(), t.describe());
  return t;
}

std::string Tensor::describe() const {
  std::string text{name(dtype)};
  text += '[';
  for (int i = 0; i < rank; ++i) text += (i > 0 ? "," : "") + std::to_string(dim(i));
  return text + "] on " + device.describe();
}

}  // namespace fathom
