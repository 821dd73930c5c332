// Reads the fields of a JSON object of a client, one by one, and keeps the first error with the
// JSON pointer of its field. After an error further reads change nothing, so that a schema can read
// all its fields and ask once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "fathom/base/json.h"
#include "fathom/base/result.h"

namespace fathom::server {

class Fields {
 public:
  // `object` must outlive this; anything but an object is an error at once. `pointer` is where the
  // object stands in the body, "" for the body itself.
  Fields(const Json& object, std::string pointer);

  // The value, or null where the field is absent or null, and after an error.
  const Json* find(std::string_view name) const;

  // Each sets `out` when the field is there, and fails on a wrong type or a value out of bounds.
  void read(std::string_view name, bool& out);
  void read(std::string_view name, std::string& out);
  void read(std::string_view name, float& out, double least, double most);
  void read(std::string_view name, int& out, int64_t least, int64_t most);
  void read(std::string_view name, std::optional<int64_t>& out);

  // Fails when a field is there that fathom does not have; `why` says what to do instead.
  void refuse(std::string_view name, std::string_view why);

  void fail(std::string_view name, std::string message);
  // An error of something below this object, which brings its own pointer.
  void adopt(const Error& error);

  std::string pointer(std::string_view name) const;
  bool failed() const { return error_.has_value(); }
  const Error& error() const { return *error_; }

 private:
  void expect(std::string_view name, std::string_view wanted, const Json& got);

  const Json& object_;
  std::string pointer_;
  std::optional<Error> error_;
};

// A value as an error message quotes it: short, valid UTF-8.
std::string quoted(const Json& value);

}  // namespace fathom::server
