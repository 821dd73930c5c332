#include "fathom/testing/model_session.h"

#include <algorithm>
#include <numeric>

#include "fathom/models/deepseek_nextn.h"

namespace fathom::testing {
namespace {

// A step's host arrays and the view of them.
class StagedStep {
 public:
  void add(const std::vector<int32_t>& tokens, int64_t start, const std::vector<int32_t>& pages) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens_.push_back(tokens[i]);
      positions_.push_back(static_cast<int32_t>(start) + static_cast<int32_t>(i));
    }
    row_begin_.push_back(static_cast<int32_t>(tokens_.size()));
    kv_len_.push_back(static_cast<int32_t>(start) + static_cast<int32_t>(tokens.size()));
    pages_.insert(pages_.end(), pages.begin(), pages.end());
    page_begin_.push_back(static_cast<int32_t>(pages_.size()));
    const auto count = static_cast<int64_t>(tokens.size());
    if (count == 1 && single_rows_ + 1 == static_cast<int64_t>(kv_len_.size())) ++single_rows_;
    max_count_ = std::max(max_count_, count);
  }
  // Wants logits of the last `n` tokens added.
  void want(int64_t n) {
    for (int64_t i = n; i > 0; --i) {
      logit_rows_.push_back(static_cast<int32_t>(static_cast<int64_t>(tokens_.size()) - i));
    }
  }
  layers::BatchView view() {
    const auto tensor = [](std::vector<int32_t>& v) {
      return Tensor::of(v.data(), DType::i32, Device::cpu(), {static_cast<int64_t>(v.size())});
    };
    return {
        .tokens = tensor(tokens_),
        .positions = tensor(positions_),
        .row_begin = tensor(row_begin_),
        .kv_len = tensor(kv_len_),
        .page_begin = tensor(page_begin_),
        .pages = tensor(pages_),
        .logit_rows = tensor(logit_rows_),
        .single_rows = single_rows_,
        .max_count = max_count_,
        .max_kv_len = *std::max_element(kv_len_.begin(), kv_len_.end()),
    };
  }

 private:
  std::vector<int32_t> tokens_, positions_, row_begin_{0}, kv_len_, page_begin_{0}, pages_;
  std::vector<int32_t> logit_rows_;
  int64_t single_rows_ = 0;
  int64_t max_count_ = 0;
};

std::vector<std::vector<float>> rows_of(const Tensor& matrix) {
  std::vector<std::vector<float>> rows;
  for (int64_t i = 0; i < matrix.dim(0); ++i) {
    const float* row = matrix.row(i).as<float>();
    rows.emplace_back(row, row + matrix.dim(1));
  }
  return rows;
}

}  // namespace

Result<std::unique_ptr<ModelSession>> ModelSession::open(
    const std::string& path, const SessionOptions& options
) {
  std::unique_ptr<ModelSession> session(new ModelSession);
  ModelSession& s = *session;
  s.pool_ = std::make_unique<ThreadPool>(options.threads);
  s.exec_ = Exec{.workspace = &s.workspace_, .pool = s.pool_.get(), .kernels = &s.kernels_};
  s.probe_ = options.probe;
  if (s.probe_) s.exec_.probe = &s.probe_;
  auto opened = models::open_model(path, s.exec_, s.ledger_, options.open);
  if (!opened.ok()) return opened.error();
  s.opened_ = std::move(*opened);
  const models::StepLimits limits{
      .tokens = options.max_step_tokens,
      .rows = options.max_sequences,
      .logit_rows = options.max_step_tokens,
  };
  auto workspace = Buffer::allocate(
      s.ledger_, Device::cpu(), s.opened_.model->max_step_bytes(limits), Purpose::workspace
  );
  if (!workspace.ok()) return workspace.error();
  s.workspace_ = Workspace(std::move(*workspace));
  const int64_t sequence_pages =
      (options.max_sequence_tokens + options.page_size - 1) / options.page_size;
  const int64_t pages = 1 + options.max_sequences * sequence_pages;
  auto cache = layers::KvCache::allocate(
      s.ledger_, Device::cpu(), s.opened_.model->kv_layout(), pages, options.page_size
  );
  if (!cache.ok()) return cache.error();
  s.cache_ = std::move(*cache);
  s.free_pages_.resize(static_cast<size_t>(pages - 1));
  std::iota(s.free_pages_.begin(), s.free_pages_.end(), 1);
  std::shuffle(s.free_pages_.begin(), s.free_pages_.end(), s.random_);
  s.sequences_.resize(static_cast<size_t>(options.max_sequences));
  return session;
}

void ModelSession::grow(Sequence& sequence, int64_t tokens) {
  while (static_cast<int64_t>(sequence.pages.size()) * cache_.page_size() < sequence.length + tokens
  ) {
    CHECK(!free_pages_.empty(), "the session's pages are used up");
    sequence.pages.push_back(free_pages_.back());
    free_pages_.pop_back();
  }
}

void ModelSession::clear(int sequence) {
  Sequence& s = sequences_.at(static_cast<size_t>(sequence));
  free_pages_.insert(free_pages_.end(), s.pages.begin(), s.pages.end());
  std::shuffle(free_pages_.begin(), free_pages_.end(), random_);
  s = {};
}

std::vector<std::vector<float>> ModelSession::step(const std::vector<Feed>& feeds) {
  StagedStep staged;
  for (const Feed& feed : feeds) {
    Sequence& s = sequences_.at(static_cast<size_t>(feed.sequence));
    const auto count = static_cast<int64_t>(feed.tokens.size());
    grow(s, count);
    staged.add(feed.tokens, s.length, s.pages);
    staged.want(feed.all_logits ? count : 1);
    s.length += count;
  }
  Workspace::Mark mark(workspace_);
  const layers::BatchView view = staged.view();
  const Tensor hidden = opened_.model->forward(exec_, view, cache_);
  const Tensor logits = opened_.model->logits(exec_, hidden);
  return rows_of(logits);
}

std::vector<std::vector<float>> ModelSession::draft(
    const std::vector<int32_t>& next_tokens, const std::vector<std::vector<float>>& hidden
) {
  const models::DeepseekNextn* nextn = opened_.model->nextn();
  CHECK(nextn != nullptr && next_tokens.size() == hidden.size(), "nothing to draft with");
  Sequence sequence;
  grow(sequence, static_cast<int64_t>(next_tokens.size()));
  StagedStep staged;
  staged.add(next_tokens, 0, sequence.pages);
  staged.want(static_cast<int64_t>(next_tokens.size()));
  Workspace::Mark mark(workspace_);
  const auto T = static_cast<int64_t>(hidden.size());
  const Tensor states = workspace_.alloc(DType::f32, {T, opened_.config.hidden});
  for (int64_t t = 0; t < T; ++t) {
    const std::vector<float>& row = hidden[static_cast<size_t>(t)];
    std::copy(row.begin(), row.end(), states.row(t).as<float>());
  }
  const Tensor g = nextn->forward(exec_, staged.view(), states, cache_);
  free_pages_.insert(free_pages_.end(), sequence.pages.begin(), sequence.pages.end());
  return rows_of(opened_.model->logits(exec_, g));
}

std::vector<int32_t> ModelSession::greedy(
    int sequence, const std::vector<int32_t>& prompt, int64_t tokens, int64_t chunk
) {
  std::vector<int32_t> generated;
  std::vector<float> last;
  for (size_t from = 0; from < prompt.size(); from += static_cast<size_t>(chunk)) {
    const size_t to = std::min(prompt.size(), from + static_cast<size_t>(chunk));
    last =
        step({{sequence,
               {prompt.begin() + static_cast<long>(from), prompt.begin() + static_cast<long>(to)}}}
        ).front();
  }
  while (true) {
    const auto best = std::max_element(last.begin(), last.end()) - last.begin();
    generated.push_back(static_cast<int32_t>(best));
    if (static_cast<int64_t>(generated.size()) == tokens) return generated;
    last = step({{sequence, {generated.back()}}}).front();
  }
}

}  // namespace fathom::testing
