#include "fathom/core/expect.h"

#include <algorithm>

namespace fathom {
namespace {

// Letters are short, and most differ in the first place.
bool same(std::string_view a, std::string_view b) {
  return a.size() == b.size() && a.front() == b.front() && (a.size() == 1 || a == b);
}

}  // namespace

Expect& Expect::tensor(
    std::string_view name,
    const Tensor& t,
    std::initializer_list<std::string_view> letters,
    std::initializer_list<DType> dtypes
) {
  CHECK(t.defined(), "{}: {} is missing", op_, name);
  CHECK(
      t.rank == static_cast<int>(letters.size()),
      "{}: {} is {}, rank {} wanted",
      op_,
      name,
      t.describe(),
      letters.size()
  );
  CHECK(
      std::find(dtypes.begin(), dtypes.end(), t.dtype) != dtypes.end(),
      "{}: {} is {}, a dtype not taken",
      op_,
      name,
      t.describe()
  );
  CHECK(
      t.device == device_,
      "{}: {} is {}, the step runs on {}",
      op_,
      name,
      t.describe(),
      device_.describe()
  );
  CHECK(t.dim(-1) <= 1 || t.stride(-1) == 1, "{}: {} has inner stride {}", op_, name, t.stride(-1));
  int i = 0;
  for (const std::string_view letter : letters) {
    const int64_t got = t.dim(i++);
    auto* end = bindings_.data() + bound_;
    auto* found = std::find_if(bindings_.data(), end, [&](const Binding& b) {
      return same(b.letter, letter);
    });
    if (found == end) {
      CHECK(bound_ < bindings_.size(), "{}: more than {} letters", op_, bindings_.size());
      bindings_[bound_++] = {letter, got, name};
    } else {
      CHECK(
          found->size == got,
          "{}: {} is {}: {} = {} wanted as in {}, got {}",
          op_,
          name,
          t.describe(),
          letter,
          found->size,
          found->from,
          got
      );
    }
  }
  return *this;
}

Expect& Expect::optional(
    std::string_view name,
    const Tensor& t,
    std::initializer_list<std::string_view> letters,
    std::initializer_list<DType> dtypes
) {
  return t.defined() ? tensor(name, t, letters, dtypes) : *this;
}

Expect& Expect::that(bool condition, std::string_view rule) {
  CHECK(condition, "{}: {}", op_, rule);
  return *this;
}

int64_t Expect::size(std::string_view letter) const {
  for (size_t i = 0; i < bound_; ++i) {
    if (same(bindings_[i].letter, letter)) return bindings_[i].size;
  }
  CHECK(false, "{}: letter {} is not bound", op_, letter);
  return 0;
}

}  // namespace fathom
