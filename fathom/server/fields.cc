#include "fathom/server/fields.h"

#include <cmath>

namespace fathom::server {

std::string quoted(const Json& value) {
  constexpr size_t kLongest = 60;
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

Fields::Fields(const Json& object, std::string pointer)
    : object_(object), pointer_(std::move(pointer)) {
  if (!object.is_object()) {
    const std::string where = pointer_.empty() ? "the body" : pointer_;
    error_ = Error{fmt::format("{} must be an object, got {}", where, quoted(object)), pointer_};
  }
}

const Json* Fields::find(std::string_view name) const {
  if (failed()) return nullptr;
  const auto it = object_.find(std::string(name));
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void Fields::read(std::string_view name, bool& out) {
  const Json* value = find(name);
  if (!value) return;
  if (!value->is_boolean()) return expect(name, "true or false", *value);
  out = value->get<bool>();
}

void Fields::read(std::string_view name, std::string& out) {
  const Json* value = find(name);
  if (!value) return;
  if (!value->is_string()) return expect(name, "a string", *value);
  out = value->get<std::string>();
}

void Fields::read(std::string_view name, float& out, double least, double most) {
  const Json* value = find(name);
  if (!value) return;
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!(number >= least && number <= most)) {
    return expect(name, fmt::format("a number from {} to {}", least, most), *value);
  }
  out = static_cast<float>(number);
}

void Fields::read(std::string_view name, int& out, int64_t least, int64_t most) {
  const Json* value = find(name);
  if (!value) return;
  // An unsigned number above int64's range turns negative in get<int64_t>.
  const bool fits = value->is_number_integer() &&
                    (!value->is_number_unsigned() || value->get<uint64_t>() <= INT64_MAX);
  if (!fits || value->get<int64_t>() < least || value->get<int64_t>() > most) {
    return expect(name, fmt::format("an integer from {} to {}", least, most), *value);
  }
  out = static_cast<int>(value->get<int64_t>());
}

void Fields::read(std::string_view name, std::optional<int64_t>& out) {
  const Json* value = find(name);
  if (!value) return;
  if (!value->is_number_integer()) return expect(name, "an integer", *value);
  out = value->is_number_unsigned() ? static_cast<int64_t>(value->get<uint64_t>())
                                    : value->get<int64_t>();
}

void Fields::refuse(std::string_view name, std::string_view why) {
  if (find(name)) fail(name, fmt::format("'{}' is not supported: {}", name, why));
}

void Fields::fail(std::string_view name, std::string message) {
  if (!failed()) error_ = Error{std::move(message), pointer(name)};
}

void Fields::adopt(const Error& error) {
  if (!failed()) error_ = error;
}

std::string Fields::pointer(std::string_view name) const {
  return fmt::format("{}/{}", pointer_, name);
}

void Fields::expect(std::string_view name, std::string_view wanted, const Json& got) {
  fail(name, fmt::format("'{}' must be {}, got {}", name, wanted, quoted(got)));
}

}  // namespace fathom::server
