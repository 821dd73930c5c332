// Loader: tensors that lie on a GPU.
#include <cstring>

#include "fathom/weights/loader.h"

namespace fathom::weights {

void Loader::upload(const Tensor& source, const Tensor& to) {
  if (source.dtype == DType::f8e4m3) {
    note(fmt::format("{}: FP8 matrices do not go to a GPU yet", source.describe()));
    return;
  }
  if (Result<void> done = upload_.matrix(source, to); !done) note(done.error().message);
  release(source);
}

Tensor Loader::to_device(const Tensor& source) {
  const Tensor t =
      allocate(Tensor::of(nullptr, DType::bf16, exec_.device, {source.dim(0), source.dim(1)}));
  if (t.defined()) upload(source, t);
  return t;
}

Tensor Loader::publish(const Tensor& made) {
  if (!made.defined() || exec_.device.is_cpu()) return made;
  Tensor t = made;
  t.device = exec_.device;
  t.data = nullptr;
  t = allocate(t);
  if (!t.defined()) return {};
  if (Result<void> done = upload_.copy(made, t); !done) note(done.error().message);
  release(made);
  return t;
}

Tensor Loader::take_vector(const Scope& name, int64_t size) {
  return publish(host_vector(name, size));
}

Tensor Loader::take_vectors(const std::vector<Part>& parts) {
  int64_t size = 0;
  for (const Part& part : parts) size += part.rows;
  const Tensor all = make(DType::f32, {size});
  int64_t from = 0;
  for (const Part& part : parts) {
    const Tensor vector = host_vector(part.name, part.rows);
    if (!vector.defined() || !all.defined()) return {};
    std::memcpy(
        all.slice(0, from, part.rows).data, vector.data, static_cast<size_t>(vector.bytes())
    );
    from += part.rows;
  }
  return publish(all);
}

std::vector<QTensor> Loader::parts_on_device(const std::vector<Part>& parts, int64_t columns) {
  int64_t rows = 0;
  for (const Part& part : parts) rows += part.rows;
  const Tensor all = allocate(Tensor::of(nullptr, DType::bf16, exec_.device, {rows, columns}));
  if (!all.defined()) return {};
  int64_t from = 0;
  for (const Part& part : parts) {
    const Tensor t = source(part.name, {part.rows, columns});
    if (!t.defined()) return {};
    report(t);
    upload(t, all.slice(0, from, part.rows));
    from += part.rows;
  }
  return {{.data = all}};
}

}  // namespace fathom::weights
