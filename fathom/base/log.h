// Log lines on standard error, with time and level. The library behind it is known to log.cc alone.
//   log_info("{} tokens", n);
#pragma once

#include <fmt/core.h>

#include <string>
#include <utility>

namespace fathom {

enum class LogLevel : uint8_t { debug, info, warning, error };

void log_line(LogLevel level, const std::string& line);
// Lines below are dropped; info at start.
void set_log_level(LogLevel level);

template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace fathom
