#include "fathom/ops/attention/attend_row.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "fathom/ops/element.h"

namespace fathom::ops {
namespace {

constexpr int64_t kMaxDim = 1024;

// Softmax-weighted sum of values, taken in ascending position: the running maximum, the sum of
// exponentials and the sum of weighted values are rescaled when the maximum rises.
class Softmax {
 public:
  explicit Softmax(int64_t dim) : dim_(dim) {}

  void add(double score, const Tensor& value) {
    if (score > maximum_) rescale(score);
    const double weight = std::exp(score - maximum_);
    sum_ += weight;
    for (int64_t d = 0; d < dim_; ++d) {
      values_[static_cast<size_t>(d)] += weight * load_element(value, d);
    }
  }
  // A key without a value.
  void add_sink(double score) {
    if (score > maximum_) rescale(score);
    sum_ += std::exp(score - maximum_);
  }
  void store(const Tensor& y) const {
    for (int64_t d = 0; d < dim_; ++d) {
      const double v = sum_ > 0 ? values_[static_cast<size_t>(d)] / sum_ : 0.0;
      store_element(y, d, static_cast<float>(v));
    }
  }
  float lse() const { return static_cast<float>(maximum_ + std::log(sum_)); }

 private:
  void rescale(double maximum) {
    const double factor = std::exp(maximum_ - maximum);
    maximum_ = maximum;
    sum_ *= factor;
    for (int64_t d = 0; d < dim_; ++d) values_[static_cast<size_t>(d)] *= factor;
  }

  int64_t dim_;
  double maximum_ = -std::numeric_limits<double>::infinity();
  double sum_ = 0;
  std::array<double, kMaxDim> values_{};
};

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t d = 0; d < a.dim(0); ++d) sum += load_element(a, d) * load_element(b, d);
  return sum;
}

void attend_row(const PagedAttention& args, int64_t b, int64_t t, int64_t h) {
  const int64_t group = args.q.dim(1) / args.keys.dim(1);
  const int64_t page_size = args.keys.dim(2);
  const int32_t* row_begin = args.rows.row_begin.as<int32_t>();
  const int32_t* pages = args.rows.pages.as<int32_t>() + args.rows.page_begin.as<int32_t>()[b];
  const int64_t length = args.rows.kv_len.as<int32_t>()[b];
  const int64_t position = args.causal ? length - row_begin[b + 1] + t : length - 1;
  const int64_t first = args.window > 0 ? std::max<int64_t>(0, position - args.window + 1) : 0;
  const Tensor q = args.q.row(t).row(h);
  Softmax softmax(args.values.dim(3));
  if (args.sinks.defined()) softmax.add_sink(args.sinks.as<float>()[h]);
  for (int64_t j = first; j <= position; ++j) {
    const int32_t page = pages[j / page_size];
    const Tensor key = args.keys.row(page).row(h / group).row(j % page_size);
    const Tensor value = args.values.row(page).row(h / group).row(j % page_size);
    softmax.add(args.scale * dot(q, key), value);
  }
  softmax.store(args.y.row(t).row(h));
  if (args.lse.defined()) args.lse.row(t).as<float>()[h] = softmax.lse();
}

}  // namespace

void attend_rows(const Exec& exec, const PagedAttention& args) {
  CHECK(args.values.dim(3) <= kMaxDim, "values of {} elements a head", args.values.dim(3));
  const int64_t H = args.q.dim(1), B = args.rows.kv_len.dim(0);
  const int32_t* row_begin = args.rows.row_begin.as<int32_t>();
  const int64_t first = row_begin[0], tokens = row_begin[B] - row_begin[0];
  exec.parallel_for(tokens * H, 1, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      const int64_t t = first + i / H;
      const int64_t b = std::upper_bound(row_begin, row_begin + B + 1, t) - row_begin - 1;
      attend_row(args, b, t, i % H);
    }
  });
}

}  // namespace fathom::ops
