#include "penstock/rdma/verbs/description.hpp"

#include <fmt/format.h>

#include <concepts>
#include <cstring>
#include <string_view>

#include "penstock/transport/error.hpp"

namespace penstock::inline v1::verbs {
namespace {

constexpr std::uint32_t kMagic = 0x4256'5350;  // "PSVB"
constexpr std::uint16_t kVersion = 3;
constexpr std::size_t kFixedBytes = 48;
constexpr std::size_t kRegionBytes = 24;
constexpr std::uint32_t kMax24 = 0xff'ffff;

class Encoder {
 public:
  template <std::unsigned_integral T>
  void put(T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i)
      bytes_.push_back(static_cast<std::byte>(static_cast<std::uint64_t>(value) >> (8 * i)));
  }
  void put(const ibv_gid& gid) {
    for (const std::uint8_t byte : gid.raw) bytes_.push_back(std::byte{byte});
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// The caller has checked that the bytes are there.
class Decoder {
 public:
  explicit Decoder(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <std::unsigned_integral T>
  T take() {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i)
      value |= std::to_integer<std::uint64_t>(bytes_[i]) << (8 * i);
    bytes_ = bytes_.subspan(sizeof(T));
    return static_cast<T>(value);
  }
  ibv_gid take_gid() {
    ibv_gid gid{};
    std::memcpy(gid.raw, bytes_.data(), sizeof gid.raw);
    bytes_ = bytes_.subspan(sizeof gid.raw);
    return gid;
  }

 private:
  std::span<const std::byte> bytes_;
};

[[noreturn]] void refuse(std::string_view why) {
  throw SetupError(Errc::handshake_failed,
                   fmt::format("rdma: the other end's description of its queue pair is wrong: {}; "
                               "it runs something else, or what came was altered",
                               why));
}

void check(bool ok, std::string_view why) {
  if (!ok) refuse(why);
}

}  // namespace

std::vector<std::byte> encode(const Description& d) {
  Encoder out;
  out.put(kMagic);
  out.put(kVersion);
  out.put(static_cast<std::uint16_t>(kFixedBytes + d.regions.size() * kRegionBytes));
  out.put(d.link_layer);
  out.put(d.mtu);
  out.put(d.traffic_class);
  out.put(d.service_level);
  out.put(d.lid);
  out.put(d.pkey_index);
  out.put(d.pkey);
  out.put(static_cast<std::uint16_t>(d.regions.size()));
  out.put(d.queue_pair);
  out.put(d.first_psn);
  out.put(static_cast<std::uint32_t>(d.gid_type));
  out.put(d.gid);
  for (const ExposedRegion& r : d.regions) {
    out.put(r.address);
    out.put(r.length);
    out.put(r.key);
    out.put(std::uint32_t{0});
  }
  return out.take();
}

Description decode(std::span<const std::byte> bytes) {
  check(bytes.size() >= 8, "too short");
  Decoder in(bytes);
  check(in.take<std::uint32_t>() == kMagic, "it does not begin with PSVB");
  if (const auto version = in.take<std::uint16_t>(); version != kVersion)
    throw SetupError(Errc::version_mismatch,
                     fmt::format("rdma: the other end describes its queue pair in version {}, this "
                                 "one knows version {}: install the same release on both hosts",
                                 version, kVersion));
  check(in.take<std::uint16_t>() == bytes.size() && bytes.size() >= kFixedBytes,
        "its length does not fit");
  Description d;
  d.link_layer = in.take<std::uint8_t>();
  d.mtu = in.take<std::uint8_t>();
  d.traffic_class = in.take<std::uint8_t>();
  d.service_level = in.take<std::uint8_t>();
  d.lid = in.take<std::uint16_t>();
  d.pkey_index = in.take<std::uint16_t>();
  d.pkey = in.take<std::uint16_t>();
  const std::size_t regions = in.take<std::uint16_t>();
  d.queue_pair = in.take<std::uint32_t>();
  d.first_psn = in.take<std::uint32_t>();
  const auto gid_type = in.take<std::uint32_t>();
  d.gid = in.take_gid();

  check(regions <= kMaxRegions, "too many memory regions");
  check(bytes.size() == kFixedBytes + regions * kRegionBytes, "its regions do not fit its length");
  const bool ethernet = d.link_layer == IBV_LINK_LAYER_ETHERNET;
  check(ethernet || d.link_layer == IBV_LINK_LAYER_INFINIBAND, "unknown link layer");
  check(mtu_bytes(d.mtu) != 0, "unknown MTU");
  check(d.service_level < 16, "service level out of range");
  check(d.queue_pair > 1 && d.queue_pair <= kMax24, "queue pair out of range");
  check(d.first_psn <= kMax24, "packet number out of range");
  check(ethernet ? gid_type == 1 || gid_type == 2 : gid_type == 0,
        "its GID is of no kind that its link layer has");
  d.gid_type = static_cast<GidType>(gid_type);
  check(d.gid.raw[0] != 0xff, "the GID is a multicast group");
  check(ethernet ? !empty_gid(d.gid) : d.lid != 0 || !empty_gid(d.gid), "it has no address");
  for (std::size_t i = 0; i < regions; ++i) {
    ExposedRegion r;
    r.address = in.take<std::uint64_t>();
    r.length = in.take<std::uint64_t>();
    r.key = in.take<std::uint32_t>();
    check(in.take<std::uint32_t>() == 0, "a reserved field of a memory region is in use");
    check(r.length != 0 && r.address + r.length > r.address, "a memory region is empty or wraps");
    d.regions.push_back(r);
  }
  return d;
}

}  // namespace penstock::inline v1::verbs
