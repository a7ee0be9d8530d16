#include "penstock/transport/handshake.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>

namespace penstock::inline v1 {
namespace {

/// In front of every field, 8 bytes.
struct FieldHeader {
  std::uint16_t tag;
  std::uint16_t flags;  // bit 0: refuse the whole message when the tag is unknown
  std::uint32_t length;
};
static_assert(sizeof(FieldHeader) == 8);
constexpr std::uint16_t kMustUnderstand = 1;

enum Tag : std::uint16_t {
  kVersionMin = 1,
  kVersionMax = 2,
  kFeaturesRequired = 3,
  kFeaturesOffered = 4,
  kSession = 5,
  kIncarnation = 6,
  kFingerprint = 7,
  kChannel = 8,
  kPath = 9,
  kPageSize = 10,
  kCapacity = 11,
  kLiveness = 12,
  kProcess = 13,
  kAuthentication = 14,
  kVersion = 15,
  kFeatures = 16,
  kWindow = 17,
  kKey = 18,
  kLink = 19,
  kCode = 20,
  kText = 21,
  kCursor = 22,
  kTypeName = 23,
  kMaxMessageField = 24,
  kRails = 25,
  kRail = 26,
  kPlace = 27,
  kLacks = 28,
};

constexpr std::size_t kMaxText = 500;  // bytes of what is for people

/// The text is the peer's.
void keep_to_one_line(std::string& text) {
  text.resize(std::min(text.size(), kMaxText));
  std::ranges::replace_if(
      text, [](char c) { return static_cast<unsigned char>(c) < ' '; }, ' ');
}

[[noreturn]] void malformed(const std::string& what) {
  throw SetupError(Errc::handshake_failed, "handshake: " + what);
}

class Writer {
 public:
  explicit Writer(FrameType type) {
    bytes_.resize(sizeof(FrameHeader));
    header_.type = static_cast<std::uint16_t>(type);
  }
  void bytes(Tag tag, std::span<const std::byte> value) {
    const FieldHeader field{tag, 0, static_cast<std::uint32_t>(value.size())};
    append(std::as_bytes(std::span(&field, 1)));
    append(value);
  }
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void value(Tag tag, const T& v) { bytes(tag, std::as_bytes(std::span(&v, 1))); }
  void text(Tag tag, const std::string& v) { bytes(tag, std::as_bytes(std::span(v))); }
  std::vector<std::byte> finish() {
    header_.length = static_cast<std::uint32_t>(bytes_.size() - sizeof header_);
    std::memcpy(bytes_.data(), &header_, sizeof header_);
    return std::move(bytes_);
  }

 private:
  void append(std::span<const std::byte> b) { bytes_.insert(bytes_.end(), b.begin(), b.end()); }
  FrameHeader header_{kFrameMagic, 0, 0, 0};
  std::vector<std::byte> bytes_;
};

struct Field {
  std::uint16_t tag = 0;
  std::uint16_t flags = 0;
  std::span<const std::byte> value;

  template <class T>
  requires std::is_trivially_copyable_v<T>
  void into(T& out) const {
    if (value.size() != sizeof out)
      malformed("field " + std::to_string(tag) + " has " + std::to_string(value.size()) +
                " bytes instead of " + std::to_string(sizeof out));
    std::memcpy(&out, value.data(), sizeof out);
  }
  void into(std::string& out) const {
    out.assign(reinterpret_cast<const char*>(value.data()), value.size());
  }
  void into(std::vector<std::byte>& out) const { out.assign(value.begin(), value.end()); }
};

/// Calls take(field) for every field; it answers whether it knows the tag.
template <class Take>
void for_each_field(std::span<const std::byte> body, Take&& take) {
  while (!body.empty()) {
    FieldHeader header{};
    if (body.size() < sizeof header) malformed("a field is cut off");
    std::memcpy(&header, body.data(), sizeof header);
    body = body.subspan(sizeof header);
    if (header.length > body.size()) malformed("a field is longer than its message");
    if (!take(Field{header.tag, header.flags, body.first(header.length)}) &&
        (header.flags & kMustUnderstand) != 0)
      throw SetupError(
          Errc::feature_mismatch,
          "handshake: the peer needs field " + std::to_string(header.tag) +
              ", which this version does not know: use the newer version on both sides");
    body = body.subspan(header.length);
  }
}

}  // namespace

std::vector<std::byte> encode(const Hello& hello) {
  Writer w(FrameType::hello);
  w.value(kVersionMin, hello.version_min);
  w.value(kVersionMax, hello.version_max);
  w.value(kFeaturesRequired, hello.features_required);
  w.value(kFeaturesOffered, hello.features_offered);
  w.value(kSession, hello.session);
  w.value(kIncarnation, hello.incarnation);
  w.value(kFingerprint, hello.type.fingerprint);
  w.text(kChannel, hello.channel);
  for (const auto& path : hello.paths) w.text(kPath, path);
  w.value(kPageSize, hello.page_size);
  w.value(kCapacity, hello.max_capacity);
  w.value(kLiveness, hello.liveness_ns);
  w.value(kProcess, hello.process);
  w.bytes(kAuthentication, hello.authentication);
  w.text(kTypeName, hello.type.name);
  if (hello.rails != 0) w.value(kRails, hello.rails);
  return w.finish();
}

std::vector<std::byte> encode(const Welcome& welcome) {
  Writer w(FrameType::welcome);
  w.value(kVersion, welcome.version);
  w.value(kFeatures, welcome.features);
  w.value(kSession, welcome.session);
  w.value(kIncarnation, welcome.incarnation);
  w.text(kPath, welcome.path);
  w.value(kCapacity, welcome.capacity);
  w.value(kWindow, welcome.window);
  w.value(kMaxMessageField, welcome.max_message);
  w.value(kPageSize, welcome.page_size);
  w.value(kKey, welcome.key.word);
  w.value(kLiveness, welcome.liveness_ns);
  w.value(kProcess, welcome.process);
  w.bytes(kLink, welcome.link);
  for (const auto& rail : welcome.rails) w.bytes(kRail, rail);
  return w.finish();
}

std::vector<std::byte> encode(const Ready& ready) {
  Writer w(FrameType::ready);
  w.bytes(kLink, ready.link);
  for (const auto& rail : ready.rails) w.bytes(kRail, rail);
  return w.finish();
}

std::vector<std::byte> encode(const Reject& reject) {
  Writer w(FrameType::reject);
  w.value(kCode, static_cast<std::uint32_t>(reject.code));
  w.text(kText, reject.text);
  return w.finish();
}

std::vector<std::byte> encode(const Offer& offer) {
  Writer w(FrameType::offer);
  w.text(kPlace, offer.place);
  for (const auto& path : offer.paths) w.text(kPath, path);
  for (const auto& lack : offer.lacks) w.text(kLacks, lack.substr(0, kMaxText));
  return w.finish();
}

std::array<std::byte, kEmptySize> encode_empty(FrameType type) noexcept {
  return std::bit_cast<std::array<std::byte, kEmptySize>>(
      FrameHeader{kFrameMagic, static_cast<std::uint16_t>(type), 0, 0});
}

std::array<std::byte, kGoodbyeSize> encode_goodbye(FrameType type, Cursor cursor) noexcept {
  const FrameHeader header{kFrameMagic, static_cast<std::uint16_t>(type), 0,
                           sizeof(FieldHeader) + sizeof cursor};
  const FieldHeader field{kCursor, 0, sizeof cursor};
  std::array<std::byte, kGoodbyeSize> frame;
  std::memcpy(frame.data(), &header, sizeof header);
  std::memcpy(frame.data() + sizeof header, &field, sizeof field);
  std::memcpy(frame.data() + sizeof header + sizeof field, &cursor, sizeof cursor);
  return frame;
}

Hello decode_hello(std::span<const std::byte> body) {
  Hello hello;
  hello.version_min = hello.version_max = 0;
  for_each_field(body, [&](const Field& field) {
    switch (field.tag) {
      case kVersionMin: field.into(hello.version_min); return true;
      case kVersionMax: field.into(hello.version_max); return true;
      case kFeaturesRequired: field.into(hello.features_required); return true;
      case kFeaturesOffered: field.into(hello.features_offered); return true;
      case kSession: field.into(hello.session); return true;
      case kIncarnation: field.into(hello.incarnation); return true;
      case kFingerprint: field.into(hello.type.fingerprint); return true;
      case kTypeName: field.into(hello.type.name); return true;
      case kChannel: field.into(hello.channel); return true;
      case kPath: field.into(hello.paths.emplace_back()); return true;
      case kPageSize: field.into(hello.page_size); return true;
      case kCapacity: field.into(hello.max_capacity); return true;
      case kLiveness: field.into(hello.liveness_ns); return true;
      case kProcess: field.into(hello.process); return true;
      case kAuthentication: field.into(hello.authentication); return true;
      case kRails: field.into(hello.rails); return true;
      default: return false;
    }
  });
  return hello;
}

Welcome decode_welcome(std::span<const std::byte> body) {
  Welcome welcome;
  welcome.version = 0;
  for_each_field(body, [&](const Field& field) {
    switch (field.tag) {
      case kVersion: field.into(welcome.version); return true;
      case kFeatures: field.into(welcome.features); return true;
      case kSession: field.into(welcome.session); return true;
      case kIncarnation: field.into(welcome.incarnation); return true;
      case kPath: field.into(welcome.path); return true;
      case kCapacity: field.into(welcome.capacity); return true;
      case kWindow: field.into(welcome.window); return true;
      case kMaxMessageField: field.into(welcome.max_message); return true;
      case kPageSize: field.into(welcome.page_size); return true;
      case kKey: field.into(welcome.key.word); return true;
      case kLiveness: field.into(welcome.liveness_ns); return true;
      case kProcess: field.into(welcome.process); return true;
      case kLink: field.into(welcome.link); return true;
      case kRail: field.into(welcome.rails.emplace_back()); return true;
      default: return false;
    }
  });
  return welcome;
}

Ready decode_ready(std::span<const std::byte> body) {
  Ready ready;
  for_each_field(body, [&](const Field& field) {
    switch (field.tag) {
      case kLink: field.into(ready.link); return true;
      case kRail: field.into(ready.rails.emplace_back()); return true;
      default: return false;
    }
  });
  return ready;
}

Reject decode_reject(std::span<const std::byte> body) {
  Reject reject;
  std::uint32_t code = 0;
  for_each_field(body, [&](const Field& field) {
    if (field.tag == kCode) {
      field.into(code);
      return true;
    }
    if (field.tag == kText) {
      field.into(reject.text);
      return true;
    }
    return false;
  });
  if (code >= static_cast<std::uint32_t>(Errc::bad_uri) &&
      code <= static_cast<std::uint32_t>(Errc::system))
    reject.code = static_cast<Errc>(code);
  keep_to_one_line(reject.text);
  return reject;
}

Offer decode_offer(std::span<const std::byte> body) {
  Offer offer;
  for_each_field(body, [&](const Field& field) {
    switch (field.tag) {
      case kPlace: field.into(offer.place); return true;
      case kPath: field.into(offer.paths.emplace_back()); return true;
      case kLacks:
        field.into(offer.lacks.emplace_back());
        keep_to_one_line(offer.lacks.back());
        return true;
      default: return false;
    }
  });
  return offer;
}

Cursor decode_goodbye(std::span<const std::byte> body) {
  Cursor cursor = 0;
  for_each_field(body, [&](const Field& field) {
    if (field.tag != kCursor) return false;
    field.into(cursor);
    return true;
  });
  return cursor;
}

std::chrono::nanoseconds liveness_of(std::uint64_t ns) noexcept {
  constexpr std::chrono::nanoseconds kShortest = std::chrono::milliseconds(10);
  constexpr std::chrono::nanoseconds kLongest = std::chrono::hours(1);
  return std::chrono::nanoseconds(
      std::clamp<std::uint64_t>(ns, static_cast<std::uint64_t>(kShortest.count()),
                                static_cast<std::uint64_t>(kLongest.count())));
}

void FrameReader::append(std::span<const std::byte> bytes) {
  // What was handed out goes now, once for all the frames in it.
  buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(begin_));
  begin_ = 0;
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
}

std::optional<Frame> FrameReader::next() {
  const auto rest = std::span(std::as_const(buffer_)).subspan(begin_);
  const std::uint32_t magic = kFrameMagic;
  const auto seen = std::min(rest.size(), sizeof magic);
  if (seen != 0 && std::memcmp(rest.data(), &magic, seen) != 0)
    malformed("the peer does not speak penstock's protocol (other program on that port?)");
  FrameHeader header{};
  if (rest.size() < sizeof header) return std::nullopt;
  std::memcpy(&header, rest.data(), sizeof header);
  if (header.length > kMaxFrame)
    malformed("a message of " + std::to_string(header.length) + " bytes is over the limit of " +
              std::to_string(kMaxFrame));
  if (rest.size() < sizeof header + header.length) return std::nullopt;
  const auto body = rest.subspan(sizeof header, header.length);
  begin_ += sizeof header + header.length;
  return Frame{static_cast<FrameType>(header.type), {body.begin(), body.end()}};
}

}  // namespace penstock::inline v1
