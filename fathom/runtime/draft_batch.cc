#include "fathom/runtime/draft_batch.h"

#include <algorithm>

#include "fathom/base/check.h"

namespace fathom::runtime {
namespace {

template <class T>
Tensor view(std::vector<T>& values, DType dtype) {
  return Tensor::of(values.data(), dtype, Device::cpu(), {static_cast<int64_t>(values.size())});
}

}  // namespace

DraftBatch::DraftBatch(int tokens, int rows, int pages, int32_t last_position)
    : last_position_(last_position) {
  for (auto* list : {&tokens_, &positions_, &logit_rows_})
    list->reserve(static_cast<size_t>(tokens));
  mask_.reserve(static_cast<size_t>(tokens));
  for (auto* list : {&row_begin_, &kv_len_, &page_begin_})
    list->reserve(static_cast<size_t>(rows) + 1);
  pages_.reserve(static_cast<size_t>(pages));
  for (auto* list : {&wanted_.tokens, &wanted_.positions, &wanted_.kv_len})
    list->reserve(static_cast<size_t>(rows));
  for (auto* list : {&wanted_.row_begin, &wanted_.page_begin})
    list->reserve(static_cast<size_t>(rows) + 1);
  wanted_.pages.reserve(static_cast<size_t>(pages));
}

void DraftBatch::begin() {
  for (auto* list : {&tokens_, &positions_, &kv_len_, &pages_, &logit_rows_}) list->clear();
  mask_.clear();
  row_begin_.assign(1, 0);
  page_begin_.assign(1, 0);
  max_count_ = max_kv_len_ = 0;
}

void DraftBatch::add(plan::Token token, int32_t position, int64_t mask) {
  tokens_.push_back(token);
  positions_.push_back(std::min(position - 1, last_position_));
  mask_.push_back(mask);
}

void DraftBatch::end_row(int32_t kv_len, std::span<const plan::PageId> pages) {
  const auto end = static_cast<int32_t>(tokens_.size());
  max_count_ = std::max<int64_t>(max_count_, end - row_begin_.back());
  max_kv_len_ = std::max<int64_t>(max_kv_len_, kv_len);
  row_begin_.push_back(end);
  kv_len_.push_back(kv_len);
  pages_.insert(pages_.end(), pages.begin(), pages.end());
  page_begin_.push_back(static_cast<int32_t>(pages_.size()));
}

layers::BatchView DraftBatch::chain() {
  return {
      .tokens = view(tokens_, DType::i32),
      .positions = view(positions_, DType::i32),
      .row_begin = view(row_begin_, DType::i32),
      .kv_len = view(kv_len_, DType::i32),
      .page_begin = view(page_begin_, DType::i32),
      .pages = view(pages_, DType::i32),
      .logit_rows = view(logit_rows_, DType::i32),
      .verify_rows = static_cast<int64_t>(kv_len_.size()),
      .first_key = 1,
      .max_count = max_count_,
      .max_kv_len = max_kv_len_,
  };
}

layers::BatchView DraftBatch::wanted() {
  Wanted& w = wanted_;
  for (auto* list : {&w.tokens, &w.positions, &w.kv_len, &w.pages}) list->clear();
  w.row_begin.assign(1, 0);
  w.page_begin.assign(1, 0);
  size_t row = 0;
  for (const int32_t token : logit_rows_) {
    while (row_begin_[row + 1] <= token) ++row;
    CHECK(
        token + 1 == row_begin_[row + 1], "token {} is wanted and not the last of its row", token
    );
    w.tokens.push_back(tokens_[static_cast<size_t>(token)]);
    w.positions.push_back(positions_[static_cast<size_t>(token)]);
    w.row_begin.push_back(static_cast<int32_t>(w.tokens.size()));
    w.kv_len.push_back(kv_len_[row]);
    w.pages.insert(
        w.pages.end(), pages_.begin() + page_begin_[row], pages_.begin() + page_begin_[row + 1]
    );
    w.page_begin.push_back(static_cast<int32_t>(w.pages.size()));
  }
  return {
      .tokens = view(w.tokens, DType::i32),
      .positions = view(w.positions, DType::i32),
      .row_begin = view(w.row_begin, DType::i32),
      .kv_len = view(w.kv_len, DType::i32),
      .page_begin = view(w.page_begin, DType::i32),
      .pages = view(w.pages, DType::i32),
      .logit_rows = view(logit_rows_, DType::i32),
      .single_rows = static_cast<int64_t>(w.kv_len.size()),
      .first_key = 1,
      .max_count = 1,
      .max_kv_len = max_kv_len_,
  };
}

layers::BatchView DraftBatch::tree(int64_t lead) {
  layers::BatchView batch = chain();
  batch.tree_mask = view(mask_, DType::i64);
  batch.mask_lead = lead;
  return batch;
}

}  // namespace fathom::runtime
