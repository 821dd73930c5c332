// Opening a checkpoint: a HF directory, a GGUF file, or a config.json with random weights.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "fathom/models/model.h"

namespace fathom::models {

struct OpenOptions {
  ModelOptions model;
  weights::Fp8Weights fp8 = weights::Fp8Weights::dequantise;
  weights::ChannelWeights channels = weights::ChannelWeights::dequantise;
  bool dummy = false;  // seeded random weights; only config.json is read
  uint64_t dummy_seed = 0;
  // Told from the loading thread as weights become ready.
  std::function<void(const weights::Progress&)> progress = {};
};

// A loaded model and what it stands on. The members must live as long as the model.
struct OpenedModel {
  ModelConfig config;
  weights::WeightStore weights;
  std::unique_ptr<Model> model;
};

// `exec` lends its threads for packing; `ledger` must outlive the result.
Result<OpenedModel> open_model(
    const std::string& path, const Exec& exec, MemoryLedger& ledger, const OpenOptions& options = {}
);

}  // namespace fathom::models
