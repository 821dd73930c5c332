// Loader: matrices made of several tensors.
#include <cstring>

#include "fathom/ops/element.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/weights/loader.h"
#include "fathom/weights/loader_scales.h"

namespace fathom::weights {
namespace {

// Copies rows of a plain matrix; both contiguous.
void copy_rows(const Tensor& from, const Tensor& to) {
  std::memcpy(to.data, from.data, static_cast<size_t>(from.bytes()));
}

}  // namespace

void Loader::ignore_all(const Scope& scope) {
  const std::string prefix = scope.path() + ".";
  const auto& entries = map_.entries();
  for (auto it = entries.lower_bound(prefix); it != entries.end(); ++it) {
    if (!it->first.starts_with(prefix)) return;
    taken_.insert(it->first);
  }
}

QTensor Loader::product_source(const Part& part, int64_t columns, Precision precision) {
  const bool blocks = columns % ops::kFp8Block == 0;  // products of FP8 read whole groups
  if (dummy_ && dummy_->fp8 && blocks && precision == Precision::products) {
    const QTensor t = generated_fp8(part, columns);
    report(t.data);
    return t;
  }
  const Tensor t = source(part.name, {part.rows, columns}, true);
  if (!t.defined()) return {};
  report(t);
  if (has_channel_codes(t.dtype)) return channel_source(part.name, t);
  if (t.dtype == DType::f8e4m3) {
    if (!blocks) return {.data = dequantised(part.name, t)};
    if (!options_.ue8m0) return {.data = t, .scale = scale_of(part.name, t)};
    const Tensor values = dequantised(part.name, t);
    return values.defined() ? quantised(values) : QTensor{};
  }
  if (!is_float(t.dtype) || precision == Precision::checkpoint) return {.data = t};
  const DType codes = channel_codes();
  if (is_coded(codes) && has_channel_products(codes, columns)) return quantised_channels(t);
  const bool fp8 = options_.fp8 == Fp8Weights::make && precision == Precision::products && blocks;
  return fp8 ? quantised(t) : QTensor{.data = t};
}

Tensor Loader::make_scales(const QTensor& part, int64_t E, int64_t rows, int64_t columns) {
  if (ops::has_channel_scales(part)) return make(DType::f32, {E, rows});
  return make(DType::f32, {E, ops::fp8_blocks(rows), ops::fp8_blocks(columns)});
}

std::vector<QTensor> Loader::take_parts(
    const std::vector<Part>& parts, int64_t columns, Precision precision, bool join
) {
  if (exec_.device.is_cuda()) return parts_on_device(parts, columns, precision, join);
  std::vector<QTensor> sources;
  int64_t rows = 0;
  bool fits = join;
  for (const Part& part : parts) {
    const QTensor t = product_source(part, columns, precision);
    if (!t.data.defined()) return {};
    const DType packed = ops::packed_dtype(t.data.dtype, columns);
    // Scales may belong to blocks of 128 rows: the next part must begin with one.
    const int64_t unit = std::max(
        int64_t{info(packed).pack_rows}, t.scale.defined() ? rows_of_scale(t) : int64_t{1}
    );
    const bool last = &part == &parts.back();
    fits = fits && ops::is_packed(packed) &&
           (sources.empty() || t.data.dtype == sources.front().data.dtype) &&
           (part.rows % unit == 0 || (last && part.rows % info(packed).pack_rows == 0));
    sources.push_back(t);
    rows += part.rows;
  }
  if (fits) return {joined(sources, rows, columns)};
  for (QTensor& part : sources) part.data = place(part.data);
  return sources;
}

// One packed matrix of the parts' rows, and one tensor of their scales.
QTensor Loader::joined(const std::vector<QTensor>& parts, int64_t rows, int64_t columns) {
  QTensor all;
  all.data = make_shared(ops::packed_dtype(parts.front().data.dtype, columns), {rows, columns});
  if (parts.front().scale.defined()) {
    const Tensor scales = make_scales(parts.front(), 1, rows, columns);
    if (scales.defined()) all.scale = scales.row(0);
  }
  if (!all.data.defined()) return {};
  int64_t from = 0;
  for (const QTensor& part : parts) {
    copy_scale(part, from, all.scale);
    pack(part.data, all.data.slice(0, from, part.data.dim(0)));
    if (part.scale.defined()) release(part.scale);
    from += part.data.dim(0);
  }
  return all;
}

QTensor Loader::take_stack(const std::vector<std::vector<Part>>& matrices, int64_t columns) {
  if (exec_.device.is_cuda()) return stack_on_device(matrices, columns);
  const int64_t E = static_cast<int64_t>(matrices.size());
  int64_t N = 0;
  for (const Part& part : matrices.front()) N += part.rows;
  QTensor stack;
  for (int64_t e = 0; e < E; ++e) {
    int64_t from = 0;
    for (const Part& part : matrices[static_cast<size_t>(e)]) {
      const QTensor t = product_source(part, columns, Precision::products);
      if (!t.data.defined()) return {};
      const DType packed = ops::packed_dtype(t.data.dtype, columns);
      const bool whole = !ops::is_packed(packed) || part.rows % info(packed).pack_rows != 0;
      const DType dtype = whole ? t.data.dtype : packed;
      if (!stack.data.defined()) {
        stack.data = make_shared(dtype, {E, N, columns});
        if (t.scale.defined()) stack.scale = make_scales(t, E, N, columns);
      }
      if (!stack.data.defined()) return {};
      if (stack.data.dtype != dtype) {
        note(fmt::format("tensor {}: experts of one layer differ in dtype", part.name.path()));
        return {};
      }
      const Tensor place_of = stack.data.row(e).slice(0, from, part.rows);
      if (t.scale.defined()) {
        copy_scale(t, from, stack.scale.row(e));
        release(t.scale);
      }
      if (whole) {
        copy_rows(t.data, place_of);
        release(t.data);
      } else {
        pack(t.data, place_of);
      }
      from += part.rows;
    }
  }
  return stack;
}

Tensor Loader::take_values(const Scope& name, std::initializer_list<int64_t> shape) {
  const Tensor t = source(name, shape, true);
  if (!t.defined()) return {};
  report(t);
  if (is_coded(t.dtype)) return dequantised(name, t);
  const Tensor wide = make(DType::f32, shape);
  if (!wide.defined()) return {};
  for (int64_t i = 0; i < t.elements(); ++i) wide.as<float>()[i] = ops::load_element(t, i);
  release(t);
  return wide;
}

}  // namespace fathom::weights
