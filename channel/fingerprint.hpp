// The fingerprint of a message type: equal where two programs mean the same bytes.
//
// Of a trivially copyable type: its name, size, alignment, and the types of its members in order,
// so that a member that was changed, moved or added shows. Members are found for aggregates of up
// to 32 members without C arrays of several elements; of other types, and for what does not show in
// a type (units, the meaning of a value), change `type_name`. Members are counted by trying how
// many values of any type initialise T, as Boost.PFR does.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

namespace penstock::v2 {
namespace fingerprint {

template <class T>
[[nodiscard]] consteval std::string_view name_by_compiler() {
  // "… [with T = app::Order; std::string_view = …]" (g++), "… [T = app::Order]" (clang)
  std::string_view text = __PRETTY_FUNCTION__;
  text.remove_prefix(text.find("T = ") + 4);
  std::size_t depth = 0;
  std::size_t end = 0;
  for (; end < text.size(); ++end) {
    const char c = text[end];
    if (c == '<' || c == '[' || c == '(' || c == '{') ++depth;
    if (depth == 0 && (c == ';' || c == ']')) break;
    if (c == '>' || c == ']' || c == ')' || c == '}') --depth;
  }
  return text.substr(0, end);
}

/// Compilers spell these differently, and long is what it is of size.
template <class T>
[[nodiscard]] consteval std::string_view number_name() {
  constexpr std::size_t size = std::bit_width(sizeof(T)) - 1;
  using Names = std::array<std::string_view, 5>;
  if constexpr (std::is_same_v<T, bool>) return "bool";
  if constexpr (std::is_floating_point_v<T>)
    return Names{"", "", "float", "double", "long double"}[size];
  if constexpr (std::is_signed_v<T>)
    return Names{"int8", "int16", "int32", "int64", "int128"}[size];
  return Names{"uint8", "uint16", "uint32", "uint64", "uint128"}[size];
}

template <class T>
[[nodiscard]] consteval std::string_view default_name() {
  if constexpr (std::is_arithmetic_v<T>) {
    return number_name<T>();
  } else {
    return name_by_compiler<T>();
  }
}

/// FNV-1a (Fowler, Noll, Vo), 64 bits.
class Hash {
 public:
  constexpr Hash& add(std::string_view text) noexcept {
    for (const char c : text) add_byte(static_cast<std::uint8_t>(c));
    return add_byte(0xFF);  // so that "ab", "c" is not "a", "bc"
  }
  constexpr Hash& add(std::uint64_t number) noexcept {
    for (unsigned shift = 0; shift != 64; shift += 8)
      add_byte(static_cast<std::uint8_t>(number >> shift));
    return *this;
  }
  [[nodiscard]] constexpr std::uint64_t value() const noexcept { return value_; }

 private:
  constexpr Hash& add_byte(std::uint8_t byte) noexcept {
    value_ = (value_ ^ byte) * 0x100'0000'01B3U;
    return *this;
  }
  std::uint64_t value_ = 0xCBF2'9CE4'8422'2325U;
};

inline constexpr std::size_t kMostMembers = 32;

/// Initialises a member of any type, but is no base class of T.
template <class T>
struct Any {
  template <class U>
  requires(!std::is_base_of_v<U, T>) constexpr operator U() const noexcept;  // NOLINT: implicit
};

template <class T, std::size_t... i>
[[nodiscard]] consteval bool takes(std::index_sequence<i...> /*count*/) {
  return requires { T{(static_cast<void>(i), Any<T>{})...}; };
}
/// ... with nothing in braces after the first ones, which initialises a whole member.
template <class T, std::size_t... i, std::size_t... j>
[[nodiscard]] consteval bool takes_apart(std::index_sequence<i...> /*before*/,
                                         std::index_sequence<j...> /*after*/) {
  return requires {
    T{(static_cast<void>(i), Any<T>{})..., {}, (static_cast<void>(j), Any<T>{})...};
  };
}

/// Values that initialise T: its members, and each element of a C array among them.
template <class T, std::size_t n = kMostMembers + 1>
[[nodiscard]] consteval std::size_t values() {
  if constexpr (n == 0) {
    return 0;
  } else if constexpr (takes<T>(std::make_index_sequence<n>())) {
    return n;
  } else {
    return values<T, n - 1>();
  }
}

/// Each value is a whole member.
template <class T, std::size_t... i>
[[nodiscard]] consteval bool values_are_members(std::index_sequence<i...> /*all*/) {
  return (takes_apart<T>(std::make_index_sequence<i>(),
                         std::make_index_sequence<sizeof...(i) - 1 - i>()) &&
          ...);
}

template <class T>
[[nodiscard]] consteval std::size_t members() {
  if constexpr (!std::is_aggregate_v<T> || !std::is_standard_layout_v<T> || std::is_array_v<T>) {
    return 0;
  } else {
    constexpr std::size_t n = values<T>();
    if constexpr (n == 0 || n > kMostMembers) {
      return 0;
    } else {
      return values_are_members<T>(std::make_index_sequence<n>()) ? n : 0;
    }
  }
}

template <class... Members>
using Types = std::type_identity<std::tuple<Members...>>;

/// The members' types. Never run.
template <class T>
[[nodiscard]] auto types_of(T& t) {
  constexpr std::size_t n = members<T>();
  if constexpr (n == 1) {
    auto& [m0] = t;
    return Types<decltype(m0)>();
  } else if constexpr (n == 2) {
    auto& [m0, m1] = t;
    return Types<decltype(m0), decltype(m1)>();
  } else if constexpr (n == 3) {
    auto& [m0, m1, m2] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2)>();
  } else if constexpr (n == 4) {
    auto& [m0, m1, m2, m3] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3)>();
  } else if constexpr (n == 5) {
    auto& [m0, m1, m2, m3, m4] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4)>();
  } else if constexpr (n == 6) {
    auto& [m0, m1, m2, m3, m4, m5] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4),
                 decltype(m5)>();
  } else if constexpr (n == 7) {
    auto& [m0, m1, m2, m3, m4, m5, m6] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6)>();
  } else if constexpr (n == 8) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7)>();
  } else if constexpr (n == 9) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8)>();
  } else if constexpr (n == 10) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9)>();
  } else if constexpr (n == 11) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10)>();
  } else if constexpr (n == 12) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11)>();
  } else if constexpr (n == 13) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12)>();
  } else if constexpr (n == 14) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13)>();
  } else if constexpr (n == 15) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14)>();
  } else if constexpr (n == 16) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15)>();
  } else if constexpr (n == 17) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16)>();
  } else if constexpr (n == 18) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16), decltype(m17)>();
  } else if constexpr (n == 19) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16), decltype(m17), decltype(m18)>();
  } else if constexpr (n == 20) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18,
           m19] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16), decltype(m17), decltype(m18), decltype(m19)>();
  } else if constexpr (n == 21) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19,
           m20] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20)>();
  } else if constexpr (n == 22) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19,
           m20, m21] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20),
                 decltype(m21)>();
  } else if constexpr (n == 23) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19,
           m20, m21, m22] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20),
                 decltype(m21), decltype(m22)>();
  } else if constexpr (n == 24) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19,
           m20, m21, m22, m23] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20),
                 decltype(m21), decltype(m22), decltype(m23)>();
  } else if constexpr (n == 25) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19,
           m20, m21, m22, m23, m24] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20),
                 decltype(m21), decltype(m22), decltype(m23), decltype(m24)>();
  } else if constexpr (n == 26) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19,
           m20, m21, m22, m23, m24, m25] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20),
                 decltype(m21), decltype(m22), decltype(m23), decltype(m24), decltype(m25)>();
  } else if constexpr (n == 27) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19,
           m20, m21, m22, m23, m24, m25, m26] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20),
                 decltype(m21), decltype(m22), decltype(m23), decltype(m24), decltype(m25),
                 decltype(m26)>();
  } else if constexpr (n == 28) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19,
           m20, m21, m22, m23, m24, m25, m26, m27] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20),
                 decltype(m21), decltype(m22), decltype(m23), decltype(m24), decltype(m25),
                 decltype(m26), decltype(m27)>();
  } else if constexpr (n == 29) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19,
           m20, m21, m22, m23, m24, m25, m26, m27, m28] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20),
                 decltype(m21), decltype(m22), decltype(m23), decltype(m24), decltype(m25),
                 decltype(m26), decltype(m27), decltype(m28)>();
  } else if constexpr (n == 30) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19,
           m20, m21, m22, m23, m24, m25, m26, m27, m28, m29] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20),
                 decltype(m21), decltype(m22), decltype(m23), decltype(m24), decltype(m25),
                 decltype(m26), decltype(m27), decltype(m28), decltype(m29)>();
  } else if constexpr (n == 31) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19,
           m20, m21, m22, m23, m24, m25, m26, m27, m28, m29, m30] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20),
                 decltype(m21), decltype(m22), decltype(m23), decltype(m24), decltype(m25),
                 decltype(m26), decltype(m27), decltype(m28), decltype(m29), decltype(m30)>();
  } else if constexpr (n == 32) {
    auto& [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19,
           m20, m21, m22, m23, m24, m25, m26, m27, m28, m29, m30, m31] = t;
    return Types<decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5),
                 decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10),
                 decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15),
                 decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20),
                 decltype(m21), decltype(m22), decltype(m23), decltype(m24), decltype(m25),
                 decltype(m26), decltype(m27), decltype(m28), decltype(m29), decltype(m30),
                 decltype(m31)>();
  } else {
    return Types<>();
  }
}

template <class T>
constexpr void add_layout(Hash& hash);

template <class... Members>
constexpr void add_members(Hash& hash, std::type_identity<std::tuple<Members...>> /*of*/) {
  hash.add(sizeof...(Members));
  (add_layout<std::remove_cv_t<Members>>(hash), ...);
}

template <class T>
struct ArrayTraits : std::false_type {};
template <class T, std::size_t n>
struct ArrayTraits<T[n]> : std::true_type {  // NOLINT(modernize-avoid-c-arrays)
  using Element = T;
};
template <class T, std::size_t n>
struct ArrayTraits<std::array<T, n>> : std::true_type {
  using Element = T;
};

template <class T>
constexpr void add_layout(Hash& hash) {
  static_assert(!std::is_pointer_v<T> && !std::is_member_pointer_v<T>,
                "a pointer means nothing in another process: send what it points to");
  hash.add(sizeof(T)).add(alignof(T));
  if constexpr (std::is_enum_v<T>) {
    add_layout<std::underlying_type_t<T>>(hash.add("enum"));
  } else if constexpr (std::is_arithmetic_v<T>) {
    hash.add(number_name<T>());
  } else if constexpr (ArrayTraits<T>::value) {
    add_layout<std::remove_cv_t<typename ArrayTraits<T>::Element>>(hash.add("array"));
  } else {
    using Members = decltype(types_of(std::declval<T&>()));
    add_members(hash.add("struct"), Members());
  }
}

}  // namespace fingerprint

/// The name that the two ends compare: the type's, as g++ and clang both write it. Specialise it
/// where they differ (templates, unnamed namespaces), where two programs have different names for
/// the same, or to tell versions apart that look alike:
///   template <> inline constexpr std::string_view penstock::v2::type_name<Order> = "order/2";
template <class T>
inline constexpr std::string_view type_name = fingerprint::default_name<T>();

/// Of a trivially copyable type.
template <class T>
[[nodiscard]] consteval std::uint64_t fingerprint_of() {
  fingerprint::Hash hash;
  hash.add(type_name<T>).add(std::endian::native == std::endian::little ? "little" : "big");
  fingerprint::add_layout<T>(hash);
  return hash.value();
}

}  // namespace penstock::v2
