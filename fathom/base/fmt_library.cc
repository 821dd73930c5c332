// fmt's own code, compiled here alone: everywhere else its headers only declare, which compiles
// five times faster.
#include <fmt/format-inl.h>

// What its headers promise as `extern template`, or leave to this file.
namespace fmt {
inline namespace v9 {
namespace detail {
template dragonbox::decimal_fp<float> dragonbox::to_decimal(float) noexcept;
template dragonbox::decimal_fp<double> dragonbox::to_decimal(double) noexcept;
template locale_ref::locale_ref(const std::locale&);
template std::locale locale_ref::get<std::locale>() const;
template thousands_sep_result<char> thousands_sep_impl(locale_ref);
template char decimal_point_impl(locale_ref);
template void buffer<char>::append(const char*, const char*);
template void vformat_to(
    buffer<char>&, string_view, basic_format_args<buffer_context<char>>, locale_ref
);
}  // namespace detail
}  // namespace v9
}  // namespace fmt
