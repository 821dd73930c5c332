#include "fathom/server/outbox.h"

#include <iterator>

#include "fathom/server/clock.h"

namespace fathom::server {

void Outbox::put(size_t prompt, plan::OutputChunk&& chunk) {
  const std::lock_guard lock(mutex_);
  if (closed_ || overflowed_) return;
  if (items_.size() >= limit_items_) {
    overflowed_ = true;
  } else {
    items_.push_back({prompt, std::move(chunk), steady_seconds()});
  }
  if (awaited_ && waker_) {
    awaited_ = false;
    waker_();
  }
}

bool Outbox::take(std::vector<Item>& items) {
  const std::lock_guard lock(mutex_);
  items.insert(
      items.end(), std::make_move_iterator(items_.begin()), std::make_move_iterator(items_.end())
  );
  items_.clear();
  awaited_ = true;
  return !overflowed_;
}

void Outbox::on_items(std::function<void()> waker) {
  const std::lock_guard lock(mutex_);
  waker_ = std::move(waker);
  awaited_ = items_.empty() && !overflowed_;
  if (!awaited_) waker_();
}

void Outbox::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  waker_ = nullptr;
  items_.clear();
}

}  // namespace fathom::server
