// The doing tower of one replica, from weights to runner, opened from a Config.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "fathom/core/device_queue.h"
#include "fathom/core/memory_ledger.h"
#include "fathom/core/step_profile.h"
#include "fathom/engine/engine.h"
#include "fathom/engine/features.h"
#include "fathom/layers/kv_cache.h"
#include "fathom/models/open_model.h"
#include "fathom/runtime/model_runner.h"
#include "fathom/runtime/nextn_runner.h"
#include "fathom/sched/options.h"

namespace fathom::engine {

// Members in order of construction; later ones point into earlier ones.
struct ModelStack {
  MemoryLedger ledger;
  std::unique_ptr<ThreadPool> pool;
  KernelChoice kernels;
  RowCounters counters;
  StepProfile profile;
  std::unique_ptr<DeviceQueue> queue;
  Buffer semaphores;
  Exec exec;
  models::OpenedModel opened;
  layers::KvCache cache;
  std::optional<runtime::Speculation> speculation;
  std::unique_ptr<runtime::Runner> runner;
  sched::SchedulerOptions scheduler;  // capacities that follow from model, memory and Config

  const models::ModelConfig& model_config() const { return opened.config; }
};

// `end_tokens`: the ids that end an answer. `probe`: Exec's, where not null; outlives the stack.
// The Error names the flag or the file to mend.
Result<std::unique_ptr<ModelStack>> open_model_stack(
    const Config& config,
    const Features& features,
    std::vector<plan::Token> end_tokens,
    const std::function<void(std::string_view name, const Tensor&)>* probe = nullptr
);

}  // namespace fathom::engine
