// Loader: tensors that lie on a GPU.
#include <cstring>

#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/weights/loader.h"
#include "fathom/weights/loader_scales.h"

namespace fathom::weights {
namespace {

// What a matrix is on a GPU: the codes that it is made of, or BF16.
DType coded_as(DType dtype) {
  return is_coded(dtype) ? dtype : DType::bf16;
}

}  // namespace

// `to`: BF16, or tiles.
void Loader::upload(const Tensor& source, const Tensor& to) {
  const bool plain = to.dtype == DType::bf16;
  const Result<void> done = plain ? upload_.matrix(source, to) : upload_.tiles(source, to);
  if (!done) note(done.error().message);
  release(source);
}

Tensor Loader::to_device(const Tensor& source) {
  const bool coded = is_coded(source.dtype);
  const DType dtype = coded ? ops::tiled_dtype(source.dtype, source.dim(1)) : DType::bf16;
  if (coded && dtype == source.dtype) {
    note(fmt::format(
        "{}: FP8 and int8 matrices on a GPU have whole blocks of 128 columns", source.describe()
    ));
    return {};
  }
  const int64_t rows = coded ? ops::tiled_rows(source.dim(0)) : source.dim(0);
  const Tensor t = allocate(Tensor::of(nullptr, dtype, exec_.device, {rows, source.dim(1)}));
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

std::vector<QTensor> Loader::parts_on_device(
    const std::vector<Part>& parts, int64_t columns, Precision precision, bool join
) {
  std::vector<QTensor> sources;
  int64_t rows = 0;
  bool fits = join;
  for (const Part& part : parts) {
    const QTensor t = product_source(part, columns, precision);
    if (!t.data.defined()) return {};
    const bool last = &part == &parts.back();
    // Tiles have 64 rows, scales may belong to blocks of 128: the next part must begin with one.
    const DType dtype = t.data.dtype;
    const int64_t unit = is_coded(dtype) ? std::max(ops::kTileRows, rows_of_scale(t)) : 1;
    const bool alike = sources.empty() || coded_as(dtype) == coded_as(sources.front().data.dtype);
    fits = fits && alike && (last || part.rows % unit == 0);
    sources.push_back(t);
    rows += part.rows;
  }
  if (fits) return {joined_on_device(sources, rows, columns)};
  for (QTensor& part : sources) {
    part.data = place(part.data);
    part.scale = publish(part.scale);
  }
  return sources;
}

QTensor Loader::joined_on_device(const std::vector<QTensor>& parts, int64_t rows, int64_t columns) {
  if (parts.size() == 1)
    return {.data = place(parts.front().data), .scale = publish(parts.front().scale)};
  const DType codes = parts.front().data.dtype;
  const DType dtype = is_coded(codes) ? ops::tiled_dtype(codes, columns) : DType::bf16;
  const int64_t stored = is_coded(codes) ? ops::tiled_rows(rows) : rows;
  const Tensor all = allocate(Tensor::of(nullptr, dtype, exec_.device, {stored, columns}));
  const Tensor scales = is_coded(codes) ? make_scales(parts.front(), 1, rows, columns) : Tensor{};
  const Tensor scale = scales.defined() ? scales.row(0) : scales;
  if (!all.defined()) return {};
  int64_t from = 0;
  for (const QTensor& part : parts) {
    const int64_t n = part.data.dim(0);
    copy_scale(part, from, scale);
    upload(part.data, all.slice(0, from, n));
    from += n;
  }
  return {.data = all, .scale = publish(scale)};
}

QTensor Loader::stack_on_device(const std::vector<std::vector<Part>>& matrices, int64_t columns) {
  const auto E = static_cast<int64_t>(matrices.size());
  int64_t N = 0;
  bool tiles = true;
  for (const Part& part : matrices.front()) {
    N += part.rows;
    tiles = tiles && part.rows % ops::kTileRows == 0;
  }
  QTensor stack;
  for (int64_t e = 0; e < E; ++e) {
    int64_t from = 0;
    for (const Part& part : matrices[static_cast<size_t>(e)]) {
      const QTensor t = product_source(part, columns, Precision::products);
      if (!t.data.defined()) return {};
      const DType tiled = ops::tiled_dtype(t.scale.defined() ? t.data.dtype : DType::bf16, columns);
      const DType dtype = tiles ? tiled : DType::bf16;
      if (t.scale.defined() && !tiles) {
        note(fmt::format(
            "tensor {}: FP8 and int8 experts on a GPU have rows in 64s", part.name.path()
        ));
        return {};
      }
      if (!stack.data.defined()) {
        stack.data = allocate(Tensor::of(nullptr, dtype, exec_.device, {E, N, columns}));
        if (t.scale.defined()) stack.scale = make_scales(t, E, N, columns);
      }
      if (!stack.data.defined()) return {};
      if (stack.data.dtype != dtype) {
        note(fmt::format("tensor {}: experts of one layer differ in dtype", part.name.path()));
        return {};
      }
      if (t.scale.defined()) copy_scale(t, from, stack.scale.row(e));
      upload(t.data, stack.data.row(e).slice(0, from, part.rows));
      from += part.rows;
    }
  }
  stack.scale = publish(stack.scale);
  return stack;
}

}  // namespace fathom::weights
