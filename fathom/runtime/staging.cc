#include "fathom/runtime/staging.h"

#include <algorithm>

namespace fathom::runtime {

void Staging::Array::push(int32_t value) {
  CHECK(size < capacity, "a step larger than its capacity of {}", capacity);
  data[size++] = value;
}

Result<Staging> Staging::allocate(MemoryLedger& ledger, Device device, StepCapacity capacity) {
  const int32_t rows = capacity.rows + 1;
  const int64_t total = int64_t{3} * capacity.tokens + int64_t{3} * rows + capacity.pages;
  Result<Buffer> memory = Buffer::allocate(ledger, Device::cpu(), 4 * total, Purpose::staging);
  if (!memory) return memory.error();
  Staging staging;
  staging.device_ = device;
  staging.memory_ = std::move(*memory);
  auto* next = static_cast<int32_t*>(staging.memory_.data());
  const auto place = [&](Array& array, int32_t size) {
    array = {next, size, 0};
    next += size;
  };
  place(staging.tokens_, capacity.tokens);
  place(staging.positions_, capacity.tokens);
  place(staging.logit_rows_, capacity.tokens);
  place(staging.row_begin_, rows);
  place(staging.kv_len_, rows);
  place(staging.page_begin_, rows);
  place(staging.pages_, capacity.pages);
  staging.host_begin_.reserve(static_cast<size_t>(rows));
  staging.rows_.reserve(static_cast<size_t>(rows));
  return staging;
}

void Staging::begin(const plan::Batch& batch) {
  for (Array* array :
       {&tokens_, &positions_, &row_begin_, &kv_len_, &page_begin_, &pages_, &logit_rows_}) {
    array->size = 0;
  }
  rows_.clear();
  host_begin_.clear();
  size_t begin = 0;
  for (const plan::Row& row : batch.rows) {
    host_begin_.push_back(begin);
    begin += static_cast<size_t>(row.count);
  }
  CHECK(
      begin == batch.tokens.size(),
      "batch {}: {} tokens in rows, {} listed",
      batch.id,
      begin,
      batch.tokens.size()
  );
  view_ = {};
  row_begin_.push(0);
  page_begin_.push(0);
}

void Staging::append(const plan::Batch& batch, size_t i, const Slot& slot, bool all_hidden) {
  const plan::Row& row = batch.rows[i];
  const int32_t start = row.from_device ? slot.position : row.start;
  StagedRow staged{
      .batch_row = static_cast<int32_t>(i),
      .start = start,
      .token_begin = tokens_.size,
      .count = row.count,
      .logit_begin = logit_rows_.size,
      .logit_count = all_hidden ? row.count : (row.emits ? 1 : 0),
  };
  for (int32_t k = 0; k < row.count; ++k) {
    const size_t host = host_begin_[i] + static_cast<size_t>(k);
    tokens_.push(row.from_device ? slot.next_token : batch.tokens[host]);
    positions_.push(start + k);
  }
  row_begin_.push(tokens_.size);
  kv_len_.push(start + row.count);
  for (int32_t p = batch.page_begin[i]; p < batch.page_begin[i + 1]; ++p) {
    pages_.push(batch.pages[static_cast<size_t>(p)]);
  }
  page_begin_.push(pages_.size);
  for (int32_t k = row.count - staged.logit_count; k < row.count; ++k)
    logit_rows_.push(staged.token_begin + k);
  rows_.push_back(staged);
  view_.max_count = std::max<int64_t>(view_.max_count, row.count);
  view_.max_kv_len = std::max<int64_t>(view_.max_kv_len, start + row.count);
}

Tensor Staging::view_of(const Array& array) const {
  return Tensor::of(array.data, DType::i32, device_, {array.size});
}

const layers::BatchView& Staging::finish() {
  view_.tokens = view_of(tokens_);
  view_.positions = view_of(positions_);
  view_.row_begin = view_of(row_begin_);
  view_.kv_len = view_of(kv_len_);
  view_.page_begin = view_of(page_begin_);
  view_.pages = view_of(pages_);
  view_.logit_rows = view_of(logit_rows_);
  return view_;
}

}  // namespace fathom::runtime
