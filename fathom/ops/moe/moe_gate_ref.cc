#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "fathom/ops/moe/moe_gate_rows.h"

namespace fathom::ops {
namespace {

constexpr float kOut = -std::numeric_limits<float>::infinity();

std::vector<float> scores(const MoeGate& args, const float* logits, size_t E) {
  std::vector<float> p(logits, logits + E);
  if (args.scoring == MoeGate::Scoring::sigmoid) {
    for (float& v : p) v = 1.0f / (1.0f + std::exp(-v));
    return p;
  }
  const float top = *std::max_element(p.begin(), p.end());
  float sum = 0;
  for (float& v : p) sum += v = std::exp(v - top);
  for (float& v : p) v /= sum;
  return p;
}

// The `count` indices of largest value, ties to the lower index, in ascending order. NaN ranks
// last.
std::vector<size_t> largest(const std::vector<float>& values, size_t count) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (std::isnan(values[a]) || std::isnan(values[b]))
      return !std::isnan(values[a]) && std::isnan(values[b]);
    return values[a] > values[b];
  });
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

float group_score(const MoeGate& args, const float* group, size_t n) {
  float first = kOut, second = kOut;
  for (size_t i = 0; i < n; ++i) {
    if (group[i] > first) {
      second = first;
      first = group[i];
    } else if (group[i] > second) {
      second = group[i];
    }
  }
  return args.group_score == MoeGate::GroupScore::max ? first : first + second;
}

void drop_groups(const MoeGate& args, std::vector<float>& b) {
  const size_t groups = static_cast<size_t>(args.groups);
  const size_t width = b.size() / groups;
  std::vector<float> strength(groups);
  for (size_t g = 0; g < groups; ++g) strength[g] = group_score(args, b.data() + g * width, width);
  const std::vector<size_t> kept = largest(strength, static_cast<size_t>(args.kept_groups));
  for (size_t g = 0; g < groups; ++g) {
    if (std::binary_search(kept.begin(), kept.end(), g)) continue;
    std::fill_n(b.begin() + static_cast<std::ptrdiff_t>(g * width), width, kOut);
  }
}

void gate_row(const MoeGate& args, const float* logits, int32_t* ids, float* weights) {
  const size_t E = static_cast<size_t>(args.logits.dim(1));
  const std::vector<float> p = scores(args, logits, E);
  std::vector<float> b = p;
  if (args.bias.defined()) {
    for (size_t e = 0; e < E; ++e) b[e] += args.bias.as<float>()[e];
  }
  if (args.groups > 1) drop_groups(args, b);
  const std::vector<size_t> chosen = largest(b, static_cast<size_t>(args.experts_per_token));
  float sum = 0;
  bool nan = false;
  for (size_t e = 0; e < E; ++e) nan |= std::isnan(logits[e]);
  for (const size_t e : chosen) sum += p[e];
  const float divisor = args.renormalise ? sum + 1e-20f : 1.0f;
  for (const size_t e : chosen) {
    *ids++ = static_cast<int32_t>(e);
    *weights++ = nan ? std::nanf("") : p[e] / divisor * args.scale;
  }
  for (int i = 0; i < args.shared_slots; ++i) {
    *ids++ = static_cast<int32_t>(E) + i;
    *weights++ = args.shared_weight;
  }
}

}  // namespace

void moe_gate_ref(Exec&, const MoeGate& args) {
  const int64_t T = args.logits.dim(0);
  const int64_t live = args.live_tokens.defined() ? args.live_tokens.as<int32_t>()[0] : T;
  for (int64_t t = 0; t < T; ++t) {
    int32_t* ids = args.ids.as<int32_t>() + t * args.ids.stride(0);
    float* weights = args.weights.as<float>() + t * args.weights.stride(0);
    if (t < live) {
      gate_row(args, args.logits.as<float>() + t * args.logits.stride(0), ids, weights);
    } else {
      std::fill_n(ids, args.ids.dim(1), -1);
      std::fill_n(weights, args.weights.dim(1), 0.0f);
    }
  }
}

}  // namespace fathom::ops
