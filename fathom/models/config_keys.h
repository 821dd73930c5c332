// Keys: reads the keys of a config.json, checks their types, and keeps the first thing that was
// wrong.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "fathom/base/json.h"
#include "fathom/base/result.h"

namespace fathom::models {

class Keys {
 public:
  Keys(const Json& json, const std::string& source) : json_(json), source_(source) {}

  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }

  int64_t integer(const char* key, std::optional<int64_t> otherwise = {}) {
    if (!has(key)) return missing(key, otherwise);
    if (!json_[key].is_number_integer()) return wrong(key, "an integer", int64_t{0});
    return json_[key].get<int64_t>();
  }
  double number(const char* key, std::optional<double> otherwise = {}) {
    if (!has(key)) return missing(key, otherwise);
    if (!json_[key].is_number()) return wrong(key, "a number", 0.0);
    return json_[key].get<double>();
  }
  bool boolean(const char* key, bool otherwise) {
    if (!has(key)) return otherwise;
    if (!json_[key].is_boolean()) return wrong(key, "true or false", false);
    return json_[key].get<bool>();
  }
  std::string string(const char* key, const char* otherwise) {
    if (!has(key)) return otherwise;
    if (!json_[key].is_string()) return wrong(key, "a string", std::string());
    return json_[key].get<std::string>();
  }

  const Json& operator[](const char* key) const { return json_[key]; }
  const std::string& source() const { return source_; }
  // Notes that `key` holds something that is not supported.
  void refuse(const char* key, const std::string& found, std::string_view supported) {
    if (!failure_) {
      failure_ = error("{}: {} is {}; supported: {}", source_, key, found, supported);
    }
  }
  const std::optional<Error>& failure() const { return failure_; }

 private:
  template <class T>
  T missing(const char* key, std::optional<T> otherwise) {
    if (!otherwise && !failure_) failure_ = error("{}: {} is missing", source_, key);
    return otherwise.value_or(T{});
  }
  template <class T>
  T wrong(const char* key, const char* wanted, T value) {
    if (!failure_) {
      failure_ = error("{}: {} is {}, {} wanted", source_, key, json_[key].dump(), wanted);
    }
    return value;
  }

  const Json& json_;
  const std::string& source_;
  std::optional<Error> failure_;
};

}  // namespace fathom::models
