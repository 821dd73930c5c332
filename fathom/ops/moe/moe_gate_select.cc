// moe_gate on the CPU without a sort and without allocation: the best are kept in a short list
// while the scores go by. Same bits as the reference.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "fathom/ops/moe/moe_gate_rows.h"

namespace fathom::ops {
namespace {

constexpr size_t kMaxExperts = 1024, kMaxChosen = 32, kMaxGroups = 32;  // the contract's
constexpr float kOut = -std::numeric_limits<float>::infinity();

void score(MoeGate::Scoring scoring, const float* logits, size_t E, float* p) {
  if (scoring == MoeGate::Scoring::sigmoid) {
    for (size_t e = 0; e < E; ++e) p[e] = 1.0f / (1.0f + std::exp(-logits[e]));
    return;
  }
  const float top = *std::max_element(logits, logits + E);
  float sum = 0;
  for (size_t e = 0; e < E; ++e) sum += p[e] = std::exp(logits[e] - top);
  for (size_t e = 0; e < E; ++e) p[e] /= sum;
}

// NaN ranks below everything.
bool ranks_before(float a, float b) {
  return a > b || (std::isnan(b) && !std::isnan(a));
}

// The `count` indices of largest value, ties to the lower index, ascending.
void largest(const float* values, size_t n, size_t count, uint16_t* chosen) {
  std::array<uint16_t, kMaxChosen> best;  // by rank
  size_t held = 0;
  for (size_t i = 0; i < n; ++i) {
    if (held == count && !ranks_before(values[i], values[best[held - 1]])) continue;
    size_t place = held < count ? held++ : held - 1;
    for (; place > 0 && ranks_before(values[i], values[best[place - 1]]); --place)
      best[place] = best[place - 1];
    best[place] = static_cast<uint16_t>(i);
  }
  std::copy_n(best.begin(), count, chosen);
  std::sort(chosen, chosen + count);
}

float group_score(MoeGate::GroupScore kind, const float* group, size_t n) {
  float first = kOut, second = kOut;
  for (size_t i = 0; i < n; ++i) {
    if (group[i] > first) {
      second = first;
      first = group[i];
    } else if (group[i] > second) {
      second = group[i];
    }
  }
  return kind == MoeGate::GroupScore::max ? first : first + second;
}

void drop_groups(const MoeGate& args, float* b, size_t E) {
  const auto groups = static_cast<size_t>(args.groups), width = E / groups;
  const auto kept = static_cast<size_t>(args.kept_groups);
  std::array<float, kMaxGroups> strength;
  for (size_t g = 0; g < groups; ++g)
    strength[g] = group_score(args.group_score, b + g * width, width);
  std::array<uint16_t, kMaxGroups> stay;
  largest(strength.data(), groups, kept, stay.data());
  for (size_t g = 0, next = 0; g < groups; ++g) {
    if (next < kept && stay[next] == g) {
      ++next;
    } else {
      std::fill_n(b + g * width, width, kOut);
    }
  }
}

void gate_row(const MoeGate& args, const float* logits, int32_t* ids, float* weights) {
  const auto E = static_cast<size_t>(args.logits.dim(1));
  const auto k = static_cast<size_t>(args.experts_per_token);
  std::array<float, kMaxExperts> p, b;
  score(args.scoring, logits, E, p.data());
  std::copy_n(p.begin(), E, b.begin());
  if (args.bias.defined()) {
    for (size_t e = 0; e < E; ++e) b[e] += args.bias.as<float>()[e];
  }
  if (args.groups > 1) drop_groups(args, b.data(), E);
  std::array<uint16_t, kMaxChosen> chosen;
  largest(b.data(), E, k, chosen.data());
  float sum = 0;
  for (size_t i = 0; i < k; ++i) sum += p[chosen[i]];
  const float divisor = args.renormalise ? sum + 1e-20f : 1.0f;
  const bool nan = std::any_of(logits, logits + E, [](float x) { return std::isnan(x); });
  for (size_t i = 0; i < k; ++i) {
    *ids++ = chosen[i];
    *weights++ = nan ? std::nanf("") : p[chosen[i]] / divisor * args.scale;
  }
  for (int i = 0; i < args.shared_slots; ++i) {
    *ids++ = static_cast<int32_t>(E) + i;
    *weights++ = args.shared_weight;
  }
}

}  // namespace

void moe_gate_select(Exec& exec, const MoeGate& args) {
  const int64_t T = args.logits.dim(0);
  const int64_t live = args.live_tokens.defined() ? args.live_tokens.as<int32_t>()[0] : T;
  exec.parallel_for(T, 1, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      int32_t* ids = args.ids.as<int32_t>() + t * args.ids.stride(0);
      float* weights = args.weights.as<float>() + t * args.weights.stride(0);
      if (t < live) {
        gate_row(args, args.logits.as<float>() + t * args.logits.stride(0), ids, weights);
      } else {
        std::fill_n(ids, args.ids.dim(1), -1);
        std::fill_n(weights, args.weights.dim(1), 0.0f);
      }
    }
  });
}

}  // namespace fathom::ops
