#include "fathom/runtime/nextn_decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fathom/models/deepseek_nextn.h"
#include "fathom/ops/sample/largest.h"

namespace fathom::runtime {
namespace {

bool verifies(const plan::Row& row) {
  return !row.chunk && !row.plain;
}

std::span<const plan::PageId> pages_of(const plan::Batch& batch, size_t row) {
  const auto from = static_cast<size_t>(batch.page_begin[row]);
  return std::span(batch.pages)
      .subspan(from, static_cast<size_t>(batch.page_begin[row + 1]) - from);
}

// The likeliest token of the law of `logits`. Its probability is a little too high: tokens that
// hardly count are left out.
Candidate likeliest(std::span<const float> logits) {
  constexpr float kHardly = 20.0f;  // 2e-9 times as likely
  const auto top = ops::largest_of(logits.data(), static_cast<int64_t>(logits.size()));
  float sum = 0;
  for (const float z : logits)
    if (z > top.value - kHardly) sum += std::exp(z - top.value);
  return {static_cast<plan::Token>(top.index), top.finite ? 1.0f / sum : 0.0f};
}

// The `best.size()` likeliest ones, likeliest first, lower ids first.
void likeliest(std::span<const float> logits, std::span<Candidate> best) {
  if (best.size() == 1) {
    best[0] = likeliest(logits);
    return;
  }
  for (size_t j = 0; j < best.size(); ++j)
    best[j] = {static_cast<plan::Token>(j), -std::numeric_limits<float>::infinity()};
  for (size_t v = 0; v < logits.size(); ++v) {
    if (!(logits[v] > best.back().probability)) continue;
    size_t at = best.size() - 1;
    for (; at > 0 && logits[v] > best[at - 1].probability; --at) best[at] = best[at - 1];
    best[at] = {static_cast<plan::Token>(v), logits[v]};
  }
  const float top = best[0].probability;
  double sum = 0;
  for (const float z : logits) sum += static_cast<double>(std::exp(z - top));
  for (Candidate& candidate : best) {
    const float p = std::exp(candidate.probability - top) / static_cast<float>(sum);
    candidate.probability = p > 0.0f ? std::min(p, 1.0f) : 0.0f;
  }
}

void copy_rows(std::span<const void* const> from, const Tensor& to) {
  const auto bytes = static_cast<size_t>(to.row(0).bytes());
  for (size_t i = 0; i < from.size(); ++i)
    std::memcpy(to.row(static_cast<int64_t>(i)).data, from[i], bytes);
}

}  // namespace

NextnDecoder::NextnDecoder(
    const models::Model& model,
    layers::KvCache& cache,
    const StepCapacity& capacity,
    const Speculation& speculation
)
    : model_(model),
      cache_(cache),
      speculation_(speculation),
      step_tokens_(std::max(
          capacity.tokens + capacity.rows, capacity.rows * speculation.topk * speculation.steps
      )),
      rows_(capacity.rows),
      tokens_(
          static_cast<int>(step_tokens_), capacity.rows, capacity.pages, capacity.last_position
      ),
      states_(static_cast<size_t>(capacity.slots)),
      growers_(static_cast<size_t>(capacity.rows)) {
  inputs_.reserve(static_cast<size_t>(step_tokens_));
}

Result<std::unique_ptr<NextnDecoder>> NextnDecoder::make(
    const models::Model& model,
    layers::KvCache& cache,
    MemoryLedger& ledger,
    Device device,
    const StepCapacity& capacity,
    const Speculation& speculation
) {
  if (Result<void> valid = validate(speculation); !valid) return valid.error();
  if (device.is_cuda()) return error("speculative decoding runs on --device cpu only");
  std::unique_ptr<NextnDecoder> decoder(new NextnDecoder(model, cache, capacity, speculation));
  const DType dtype = cache.layout().state_dtype;
  const int64_t C = cache.layout().state_dim, slots = capacity.slots;
  Result<Buffer> memory =
      Buffer::allocate(ledger, device, bytes_of(dtype, 2 * slots * C), Purpose::workspace);
  if (!memory) return memory.error();
  decoder->memory_ = std::move(*memory);
  const Tensor both = Tensor::of(decoder->memory_.data(), dtype, device, {2 * slots, C});
  decoder->last_ = both.slice(0, 0, slots);
  decoder->draft_ = both.slice(0, slots, slots);
  return decoder;
}

int64_t NextnDecoder::step_bytes() const {
  const layers::KvLayout& layout = cache_.layout();
  const int64_t row = bytes_of(layout.state_dtype, layout.state_dim);
  const int64_t branches = rows_ * speculation_.topk;
  // The step's hidden states and those fed; the branches' logits.
  return 2 * step_tokens_ * row + 2 * branches * row + 4 * branches * model_.config().vocab +
         16 * Workspace::kAlign;
}

// `topk` candidates for each row of logits [n, V].
std::span<const Candidate> NextnDecoder::candidates_of(Exec& exec, const Tensor& logits) {
  const auto k = static_cast<size_t>(speculation_.topk);
  candidates_.resize(static_cast<size_t>(logits.dim(0)) * k);
  exec.parallel_for(logits.dim(0), 1, [&](Range rows) {
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      likeliest(
          std::span(logits.row(i).as<float>(), static_cast<size_t>(logits.dim(1))),
          std::span(candidates_).subspan(static_cast<size_t>(i) * k, k)
      );
    }
  });
  return candidates_;
}

void NextnDecoder::begin_feeding() {
  tokens_.begin();
  inputs_.clear();
  wanted_.clear();
}

void NextnDecoder::catch_up(Exec& exec, const plan::Batch& batch, SlotTable& slots) {
  begin_feeding();
  for (size_t i = 0; i < batch.rows.size(); ++i) {
    const int32_t slot = batch.rows[i].slot;
    State& state = states_[static_cast<size_t>(slot)];
    if (!verifies(batch.rows[i]) || !state.behind) continue;
    state.behind = false;
    tokens_.add(slots.next_token().as<int32_t>()[slot], slots[slot].position);
    tokens_.want();
    tokens_.end_row(slots[slot].position + 1, pages_of(batch, i));
    inputs_.push_back(last_.row(slot).data);
    wanted_.push_back(slot);
  }
  feed(exec);
}

// Runs the layer over tokens_ and inputs_ and keeps the candidates of the wanted ones.
void NextnDecoder::feed(Exec& exec) {
  if (tokens_.tokens() == 0) return;
  Workspace::Mark mark(*exec.workspace);
  const Tensor hidden = exec.workspace->alloc(draft_.dtype, {tokens_.tokens(), draft_.dim(1)});
  copy_rows(inputs_, hidden);
  const Tensor states =
      model_.nextn()->forward_last(exec, tokens_.chain(), tokens_.wanted(), hidden, cache_);
  if (wanted_.empty()) return;
  const std::span<const Candidate> found =
      candidates_of(exec, model_.nextn()->logits(exec, states));
  const auto k = static_cast<size_t>(speculation_.topk);
  for (size_t i = 0; i < wanted_.size(); ++i) {
    const Tensor state = states.row(static_cast<int64_t>(i));
    std::memcpy(draft_.row(wanted_[i]).data, state.data, static_cast<size_t>(state.bytes()));
    const std::span<const Candidate> mine = found.subspan(i * k, k);
    states_[static_cast<size_t>(wanted_[i])].candidates.assign(mine.begin(), mine.end());
  }
}

void NextnDecoder::draft(Exec& exec, const plan::Batch& batch, SlotTable& slots) {
  catch_up(exec, batch, slots);
  growing_.clear();
  for (size_t i = 0; i < batch.rows.size(); ++i) {
    if (!verifies(batch.rows[i])) continue;
    const State& state = states_[static_cast<size_t>(batch.rows[i].slot)];
    CHECK(!state.candidates.empty(), "slot {} has no drafts", batch.rows[i].slot);
    growers_[growing_.size()].start(state.candidates);
    growing_.push_back(i);
  }
  if (growing_.empty()) return;
  Workspace::Mark mark(*exec.workspace);
  const auto branches = static_cast<int64_t>(growing_.size()) * speculation_.topk;
  const Tensor hidden = exec.workspace->alloc(draft_.dtype, {branches, draft_.dim(1)});
  inputs_.clear();
  unfinished_.clear();
  for (size_t r = 0; r < growing_.size(); ++r) {
    if (!grows_on(growers_[r])) continue;
    unfinished_.push_back(r);
    const void* state = draft_.row(batch.rows[growing_[r]].slot).data;
    inputs_.insert(inputs_.end(), static_cast<size_t>(speculation_.topk), state);
  }
  copy_rows(inputs_, hidden);
  for (int level = 1; level < speculation_.steps && !unfinished_.empty(); ++level)
    draft_level(exec, batch, slots, level, hidden);
  for (size_t r = 0; r < growing_.size(); ++r) {
    const int32_t at = batch.rows[growing_[r]].slot;
    Slot& slot = slots[at];
    growers_[r].select(slots.next_token().as<int32_t>()[at], speculation_.nodes, slot.tree);
  }
}

// A tree is there for what is not sure.
bool NextnDecoder::grows_on(const TreeGrower& grower) const {
  return speculation_.topk > 1 || grower.score() >= speculation_.least;
}

// Feeds the branches of every unfinished tree with their `hidden` states and lets it grow by a
// level; leaves the states of the new branches of those that grow on. Their rows stand behind the
// root's, branch after branch, where extend() will write over them.
void NextnDecoder::draft_level(
    Exec& exec, const plan::Batch& batch, SlotTable& slots, int level, const Tensor& hidden
) {
  Workspace::Mark mark(*exec.workspace);
  const int k = speculation_.topk;
  tokens_.begin();
  for (const size_t r : unfinished_) {
    const int32_t root = slots[batch.rows[growing_[r]].slot].position;
    for (const TreeGrower::Branch& branch : growers_[r].branches()) {
      tokens_.add(growers_[r].token(branch), root + level, branch.mask);
      tokens_.want();
    }
    tokens_.end_row(root + 1 + level * k, pages_of(batch, growing_[r]));
  }
  const layers::BatchView view = k == 1 ? tokens_.chain() : tokens_.tree((level - 1) * k);
  const Tensor fed = hidden.slice(0, 0, tokens_.tokens());
  const Tensor states = model_.nextn()->forward(exec, view, fed, cache_);
  const std::span<const Candidate> found =
      candidates_of(exec, model_.nextn()->logits(exec, states));
  inputs_.clear();
  const auto each = static_cast<size_t>(k) * static_cast<size_t>(k);
  size_t kept = 0;
  for (size_t j = 0; j < unfinished_.size(); ++j) {
    const size_t r = unfinished_[j];
    growers_[r].grow(found.subspan(j * each, each));
    if (!grows_on(growers_[r])) continue;
    unfinished_[kept++] = r;
    for (const TreeGrower::Branch& branch : growers_[r].branches())
      inputs_.push_back(states.row(static_cast<int64_t>(j) * k + branch.origin).data);
  }
  unfinished_.resize(kept);
  copy_rows(inputs_, hidden);
}

// A decode row's first token was fed when it was drawn. A chunk's first follows on a state that is
// in the slot or, at the border of a page, in the page before; where neither holds it, its row came
// with the page (after a swap).
NextnDecoder::Feed NextnDecoder::feed_of(const plan::Batch& batch, const Advance& advance) const {
  const auto row = static_cast<size_t>(advance.batch_row);
  const int32_t slot = batch.rows[row].slot;
  const int32_t start = advance.start;
  const auto page_size = static_cast<int32_t>(cache_.page_size());
  if (verifies(batch.rows[row]) || start == 0) return {&advance, false, nullptr};
  if (states_[static_cast<size_t>(slot)].hidden_of == start - 1)
    return {&advance, true, last_.row(slot).data};
  if (start % page_size != 0) return {&advance, false, nullptr};
  const plan::PageId page = pages_of(batch, row)[static_cast<size_t>(start / page_size) - 1];
  return {&advance, true, cache_.page_state(page).data};
}

void NextnDecoder::add_feed(const plan::Batch& batch, const Feed& feed, const Tensor& hidden) {
  const Advance& advance = *feed.advance;
  const auto row = static_cast<size_t>(advance.batch_row);
  const int64_t before = tokens_.tokens();
  if (feed.from_start) {
    tokens_.add(advance.tokens[0], advance.start);
    inputs_.push_back(feed.before);
  }
  const std::span<const plan::PageId> pages = pages_of(batch, row);
  const size_t count = advance.tokens.size();
  const int64_t room = static_cast<int64_t>(pages.size()) * cache_.page_size();
  const bool feeds_next = advance.drawn && advance.start + static_cast<int64_t>(count) < room;
  states_[static_cast<size_t>(batch.rows[row].slot)].behind = advance.drawn && !feeds_next;
  for (size_t i = 1; i < count + (feeds_next ? 1 : 0); ++i) {
    tokens_.add(
        i < count ? advance.tokens[i] : advance.next, advance.start + static_cast<int32_t>(i)
    );
    inputs_.push_back(hidden.row(advance.hidden[i - 1]).data);
  }
  if (tokens_.tokens() == before) return;
  if (feeds_next) {
    tokens_.want();
    wanted_.push_back(batch.rows[row].slot);
  }
  const auto readable = static_cast<int32_t>(count) + (feeds_next ? 1 : 0);
  tokens_.end_row(advance.start + readable, pages);
}

// The model's states that later rows go on from.
void NextnDecoder::keep(const plan::Batch& batch, const Advance& advance, const Tensor& hidden) {
  const auto row = static_cast<size_t>(advance.batch_row);
  const int32_t slot = batch.rows[row].slot;
  const auto page_size = static_cast<int32_t>(cache_.page_size());
  const auto bytes = static_cast<size_t>(last_.row(0).bytes());
  for (size_t i = 0; i < advance.tokens.size(); ++i) {
    const int32_t position = advance.start + static_cast<int32_t>(i);
    if ((position + 1) % page_size != 0) continue;
    const plan::PageId page = pages_of(batch, row)[static_cast<size_t>(position / page_size)];
    std::memcpy(cache_.page_state(page).data, hidden.row(advance.hidden[i]).data, bytes);
  }
  std::memcpy(last_.row(slot).data, hidden.row(advance.hidden.back()).data, bytes);
  states_[static_cast<size_t>(slot)].hidden_of =
      advance.start + static_cast<int32_t>(advance.tokens.size()) - 1;
}

void NextnDecoder::extend(
    Exec& exec, const plan::Batch& batch, const Tensor& hidden, std::span<const Advance> advances
) {
  for (const plan::SlotReset& reset : batch.resets)
    states_[static_cast<size_t>(reset.slot)].hidden_of = -1;
  begin_feeding();
  for (const Advance& advance : advances) add_feed(batch, feed_of(batch, advance), hidden);
  feed(exec);
  for (const Advance& advance : advances) keep(batch, advance, hidden);
}

}  // namespace fathom::runtime
