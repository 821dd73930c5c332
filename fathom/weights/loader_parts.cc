// Loader: matrices made of several tensors, and FP8 matrices with their scales.
#include <cstring>

#include "fathom/ops/element.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/weights/loader.h"

namespace fathom::weights {
namespace {

// Copies rows of a plain matrix; both contiguous.
void copy_rows(const Tensor& from, const Tensor& to) {
  std::memcpy(to.data, from.data, static_cast<size_t>(from.bytes()));
}

}  // namespace

Tensor Loader::scale_of(const Scope& name, const Tensor& matrix) {
  if (matrix.dtype != DType::f8e4m3) return {};
  const Scope scale_name(name.path() + "_scale_inv");
  const int64_t rows = ops::fp8_blocks(matrix.dim(0)), columns = ops::fp8_blocks(matrix.dim(1));
  const Tensor scale = source(scale_name, {rows, columns});
  if (scale.defined() && scale.dtype != DType::f32) {
    note(fmt::format("tensor {} is {}; scales are f32", scale_name.path(), scale.describe()));
    return {};
  }
  return scale;
}

Tensor Loader::dequantised(const Scope& name, const Tensor& matrix) {
  const Tensor scale = scale_of(name, matrix);
  const int64_t N = matrix.dim(0), K = matrix.dim(1);
  const Tensor wide = make(DType::f32, {N, K});
  if (!scale.defined() || !wide.defined()) return {};
  exec_.parallel_for(N, 1, [&](Range rows) {
    for (int64_t n = rows.begin; n < rows.end; ++n) {
      float* to = wide.row(n).as<float>();
      const uint8_t* codes = matrix.row(n).as<uint8_t>();
      for (int64_t k = 0; k < K; ++k)
        to[k] = f8e4m3_to_float(codes[k]) * ops::block_scale(scale, n, k);
    }
  });
  return wide;
}

void Loader::ignore_all(const Scope& scope) {
  const std::string prefix = scope.path() + ".";
  const auto& entries = map_.entries();
  for (auto it = entries.lower_bound(prefix); it != entries.end(); ++it) {
    if (!it->first.starts_with(prefix)) return;
    taken_.insert(it->first);
  }
}

std::vector<QTensor> Loader::take_parts(const std::vector<Part>& parts, int64_t columns) {
  if (exec_.device.is_cuda()) return parts_on_device(parts, columns);
  std::vector<Tensor> sources;
  std::vector<QTensor> apart;
  int64_t rows = 0;
  bool fits = true;
  for (const Part& part : parts) {
    const Tensor t = source(part.name, {part.rows, columns});
    if (!t.defined()) return {};
    const DType packed = ops::packed_dtype(t.dtype, columns);
    fits = fits && t.dtype != DType::f8e4m3 && ops::is_packed(packed) &&
           (sources.empty() || t.dtype == sources.front().dtype) &&
           part.rows % info(packed).pack_rows == 0;
    sources.push_back(t);
    rows += part.rows;
  }
  if (!fits) {
    for (size_t i = 0; i < parts.size(); ++i) {
      report(sources[i]);
      const Tensor scale = scale_of(parts[i].name, sources[i]);
      apart.push_back({.data = place(sources[i]), .scale = scale});
    }
    return apart;
  }
  const Tensor all = make(ops::packed_dtype(sources.front().dtype, columns), {rows, columns});
  if (!all.defined()) return {};
  int64_t from = 0;
  for (const Tensor& part : sources) {
    report(part);
    pack(part, all.slice(0, from, part.dim(0)));
    from += part.dim(0);
  }
  return {{.data = all}};
}

QTensor Loader::take_stack(const std::vector<std::vector<Part>>& matrices, int64_t columns) {
  const int64_t E = static_cast<int64_t>(matrices.size());
  int64_t N = 0;
  for (const Part& part : matrices.front()) N += part.rows;
  QTensor stack;
  for (int64_t e = 0; e < E; ++e) {
    const std::vector<Part>& parts = matrices[static_cast<size_t>(e)];
    int64_t from = 0;
    for (const Part& part : parts) {
      const Tensor t = source(part.name, {part.rows, columns});
      if (!t.defined()) return {};
      const DType packed = ops::packed_dtype(t.dtype, columns);
      const bool whole = t.dtype == DType::f8e4m3 || !ops::is_packed(packed) ||
                         part.rows % info(packed).pack_rows != 0;
      const DType dtype = whole ? t.dtype : packed;
      if (!stack.data.defined()) stack.data = make(dtype, {E, N, columns});
      if (!stack.data.defined()) return {};
      if (stack.data.dtype != dtype) {
        note(fmt::format("tensor {}: experts of one layer differ in dtype", part.name.path()));
        return {};
      }
      report(t);
      const Tensor place_of = stack.data.row(e).slice(0, from, part.rows);
      const Tensor scale = scale_of(part.name, t);
      if (scale.defined()) {
        if (!stack.scale.defined())
          stack.scale = make(DType::f32, {E, ops::fp8_blocks(N), scale.dim(1)});
        if (!stack.scale.defined()) return {};
        copy_rows(scale, stack.scale.row(e).slice(0, from / ops::kFp8Block, scale.dim(0)));
      }
      if (whole) {
        copy_rows(t, place_of);
        release(t);
      } else {
        pack(t, place_of);
      }
      from += part.rows;
    }
  }
  return stack;
}

Tensor Loader::take_values(const Scope& name, std::initializer_list<int64_t> shape) {
  const Tensor t = source(name, shape);
  if (!t.defined()) return {};
  report(t);
  if (t.dtype == DType::f8e4m3) return dequantised(name, t);
  const Tensor wide = make(DType::f32, shape);
  if (!wide.defined()) return {};
  for (int64_t i = 0; i < t.elements(); ++i) wide.as<float>()[i] = ops::load_element(t, i);
  release(t);
  return wide;
}

}  // namespace fathom::weights
