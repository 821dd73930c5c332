#include "fathom/models/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace fathom::models {
namespace {

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between blended.
double scale_llama3(double frequency, const RopeConfig& rope) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double low = rope.low_frequency_factor, high = rope.high_frequency_factor;
  if (wavelength < rope.original_context / high) return frequency;
  if (wavelength > rope.original_context / low || high == low) return frequency / rope.factor;
  const double blend = (rope.original_context / wavelength - low) / (high - low);
  return (1 - blend) * frequency / rope.factor + blend * frequency;
}

// YaRN: frequencies that turn less than beta_slow times in the trained context are stretched by
// `factor`, those that turn more than beta_fast times kept, a linear ramp between, over indices.
double scale_yarn(double frequency, int64_t i, int64_t head_dim, const RopeConfig& rope) {
  const double d = static_cast<double>(head_dim);
  const auto index = [&](double turns) {
    return d * std::log(rope.original_context / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(rope.theta));
  };
  const double low = std::max(std::floor(index(rope.beta_fast)), 0.0);
  double high = std::min(std::ceil(index(rope.beta_slow)), d - 1);
  if (low == high) high += 0.001;
  const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
  return frequency * (1 - ramp) + frequency / rope.factor * ramp;
}

}  // namespace

std::vector<double> rope_frequencies(
    const RopeConfig& rope, int64_t head_dim, const std::vector<float>& factors
) {
  std::vector<double> frequencies;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
    double frequency = std::pow(rope.theta, exponent);
    if (rope.scaling == RopeScaling::llama3) frequency = scale_llama3(frequency, rope);
    if (rope.scaling == RopeScaling::yarn) frequency = scale_yarn(frequency, i, head_dim, rope);
    if (rope.scaling == RopeScaling::factors) frequency /= factors.at(static_cast<size_t>(i));
    frequencies.push_back(frequency);
  }
  return frequencies;
}

Tensor make_rope_table(weights::Loader& loader, const ModelConfig& config, int64_t positions) {
  const int64_t D = config.rope_dim(), half = D / 2;
  std::vector<float> factors;
  if (config.rope.scaling == RopeScaling::factors) {
    const Tensor t = loader.take_values(weights::Scope("model.rope_factors.weight"), {half});
    if (!t.defined()) return {};
    factors.assign(t.as<float>(), t.as<float>() + half);
  }
  const std::vector<double> frequencies = rope_frequencies(config.rope, D, factors);
  const Tensor table = loader.make(DType::f32, {positions, D});
  if (!table.defined()) return {};
  const double amplitude = config.rope.attention_scale(config.rope.mscale) /
                           config.rope.attention_scale(config.rope.mscale_all_dim);
  float* row = table.as<float>();
  for (int64_t p = 0; p < positions; ++p, row += D) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * frequencies[static_cast<size_t>(i)];
      row[i] = static_cast<float>(amplitude * std::cos(angle));
      row[half + i] = static_cast<float>(amplitude * std::sin(angle));
    }
  }
  return loader.publish(table);
}

}  // namespace fathom::models
