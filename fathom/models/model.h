// Model: tokens of a step in, hidden states and logits out. Owns no memory of its own: weights are
// the WeightStore's, keys and values the KvCache's, intermediates exec.workspace's.
//
// Thread rule: load() once, then const; a step runs on one thread (exec's) at a time.
#pragma once

#include <cstdint>
#include <memory>

#include "fathom/core/exec.h"
#include "fathom/layers/batch_view.h"
#include "fathom/layers/kv_cache.h"
#include "fathom/layers/mla_attention.h"
#include "fathom/models/model_config.h"
#include "fathom/weights/loader.h"

namespace fathom::models {

struct ModelOptions {
  DType activations = DType::f32;   // f32 on the CPU, bf16 on CUDA
  DType kv_dtype = DType::f32;      // f32, f16 or bf16
  int64_t max_positions = 0;        // positions the rope table covers; 0 = config.context
  bool nextn = false;               // load the MTP layer too
  bool fuse_shared_expert = false;  // where the shared expert has a routed expert's size
  bool scale_in_gate = true;        // routed experts' factor is in their weights, not their sum
  // Latent attention: forms, and FP8 rows of the cache (ops::mla_row_bytes).
  layers::MlaForms mla;
  bool fp8_kv = false;
  bool bf16_latents = false;  // bf16 rows where its projections are FP8 codes (bf16_activations)
};

// The largest step that will be asked for.
struct StepLimits {
  int64_t tokens = 0;      // T
  int64_t rows = 0;        // B
  int64_t logit_rows = 0;  // n
};

class DeepseekNextn;

class Model {
 public:
  virtual ~Model() = default;

  virtual const ModelConfig& config() const = 0;
  // Takes every weight from the loader. Weights that are missing or wrong are the loader's Error.
  virtual Result<void> load(weights::Loader& loader, const ModelOptions& options) = 0;

  // Appends the step's keys and values to the cache and returns the hidden states of
  // batch.logit_rows, after the final norm: [n, C] in the workspace, valid until the caller's mark
  // ends.
  virtual Tensor forward(Exec& exec, const layers::BatchView& batch, layers::KvCache& cache)
      const = 0;
  // f32 [n, V] in the workspace.
  virtual Tensor logits(Exec& exec, const Tensor& hidden) const = 0;

  // The MTP layer, when the model has one and ModelOptions::nextn asked for it. Its keys lie in the
  // cache behind the layers of the model.
  virtual const DeepseekNextn* nextn() const { return nullptr; }

  virtual layers::KvLayout kv_layout() const = 0;
  // Bytes of workspace that forward() and logits(), or nextn()'s forward() and logits(), take for a
  // step within the limits.
  virtual int64_t max_step_bytes(const StepLimits& limits) const = 0;
};

// An unloaded model of the config's family.
Result<std::unique_ptr<Model>> make_model(const ModelConfig& config);

}  // namespace fathom::models
