// The rows of sample's kernel table.
#pragma once

#include "fathom/ops/sample/sample.h"

namespace fathom::ops {

void sample_ref(Exec& exec, const Sample& args);
// Every row greedy, nothing else wanted: one pass over the logits.
void sample_argmax(Exec& exec, const Sample& args);

// The whole law on the CPU, without a sort; needs sample_scratch_bytes of workspace.
void sample_select(Exec& exec, const Sample& args);

// What the rows on the CPU share. False when a NaN or +inf is among the V logits, or all are -inf.
bool finite_enough(const float* z, int64_t V);
// Bias and penalties of row b, in place.
void adjust_logits(const Sample& args, int64_t b, float* z, int64_t V);
// Adds row b's token to its counts when it is penalised.
void count_token(const Sample& args, int64_t b, int32_t token);

// CUDA: every row greedy and nothing else wanted; the whole law, without drafts; the same of many
// rows, none penalised or biased.
bool sample_takes_cuda_argmax(const Exec& exec, const Sample& args);
void sample_cuda_argmax(Exec& exec, const Sample& args);
bool sample_takes_cuda_law(const Exec& exec, const Sample& args);
void sample_cuda_law(Exec& exec, const Sample& args);
bool sample_takes_cuda_stream(const Exec& exec, const Sample& args);
void sample_cuda_stream(Exec& exec, const Sample& args);

}  // namespace fathom::ops
