// Makes a transport module out of a C++ LinkProvider:
//
//   #include "penstock/transport/plugin_export.hpp"
//   PENSTOCK_EXPORT_TRANSPORT(MyProvider)   // default-constructible; once in a module
//
// A module is not linked with the core. It needs error_category() for SetupError, and so compiles
// transport/error.cpp in; the errors themselves cross the border as code and text.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "penstock/transport/error.hpp"
#include "penstock/transport/few.hpp"
#include "penstock/transport/link.hpp"
#include "penstock/transport/plugin.h"

namespace penstock::inline v1::plugin {

static_assert(PENSTOCK_BAD_URI == static_cast<int>(Errc::bad_uri));
static_assert(PENSTOCK_UNREACHABLE == static_cast<int>(Errc::unreachable));
static_assert(PENSTOCK_HANDSHAKE_FAILED == static_cast<int>(Errc::handshake_failed));
static_assert(PENSTOCK_SYSTEM == static_cast<int>(Errc::system));
static_assert(PENSTOCK_COMPLETED == static_cast<int>(LinkEvent::Kind::completed));
static_assert(PENSTOCK_FAILED == static_cast<int>(LinkEvent::Kind::failed));
static_assert(PENSTOCK_POSTED == static_cast<int>(PostStatus::posted));
static_assert(PENSTOCK_POST_FAILED == static_cast<int>(PostStatus::failed));

/// The most writes and events that one call carries across: their translations live on the stack.
inline constexpr std::size_t kMaxWrites = 32;
inline constexpr std::size_t kMaxEvents = 32;

template <typename Provider>
class Exported {
 public:
  static const penstock_transport* table() noexcept {
    static constexpr penstock_transport kTable = {
        .struct_size = sizeof(penstock_transport),
        .abi_version = PENSTOCK_TRANSPORT_ABI,
        .provider_create = &provider_create,
        .provider_destroy = [](penstock_provider* p) noexcept { delete provider(p); },
        .scheme = [](const penstock_provider* p, penstock_text_sink sink,
                     void* context) noexcept { put(provider(p)->scheme(), sink, context); },
        .option_names = &option_names,
        .probe = &probe,
        .link_open = &link_open,
        .link_close = [](penstock_link* l) noexcept { delete link(l); },
        .link_describe = &link_describe,
        .link_connect = &link_connect,
        .link_limits = &link_limits,
        .link_post = &link_post,
        .link_poll = &link_poll,
        .link_arm =
            [](penstock_link* l, std::uint32_t kinds) noexcept {
              link(l)->arm((kinds & PENSTOCK_ARM_COMPLETIONS) != 0,
                           (kinds & PENSTOCK_ARM_IMMEDIATES) != 0);
            },
        .link_disarm = [](penstock_link* l) noexcept { link(l)->disarm(); },
        .link_event_fd = [](const penstock_link* l) noexcept -> std::int32_t {
          return link(l)->event_fd();
        },
        .link_error =
            [](const penstock_link* l, penstock_text_sink sink, void* context) noexcept {
              put_text([&] { return link(l)->error(); }, sink, context);
            },
        .link_counters = &link_counters,
        .link_path =
            [](const penstock_link* l, penstock_text_sink sink, void* context) noexcept {
              put_text([&] { return link(l)->path(); }, sink, context);
            },
        .provider_check = [](const penstock_provider* p, const char* options,
                             penstock_error* error) noexcept -> std::int32_t {
          return guarded(error, [&] { provider(p)->check(options); });
        },
        .link_add_memory = &link_add_memory,
        .link_drop_memory = [](penstock_link* /*l*/,
                               penstock_memory* memory) noexcept { delete added(memory); },
        .link_land = &link_land,
        .provider_rails = &provider_rails,
        .link_events_apart = [](penstock_link* l, std::int32_t apart) noexcept -> std::int32_t {
          return link(l)->events_apart(apart != 0);
        },
        .option_help = &option_help,
    };
    return &kTable;
  }

 private:
  // The handles are the C++ objects themselves.
  static Provider* provider(penstock_provider* p) noexcept {
    return reinterpret_cast<Provider*>(p);
  }
  static const Provider* provider(const penstock_provider* p) noexcept {
    return reinterpret_cast<const Provider*>(p);
  }
  static Link* link(penstock_link* l) noexcept { return reinterpret_cast<Link*>(l); }
  static const Link* link(const penstock_link* l) noexcept {
    return reinterpret_cast<const Link*>(l);
  }

  static LinkMemory* added(penstock_memory* memory) noexcept {
    return reinterpret_cast<LinkMemory*>(memory);
  }

  static void put(std::string_view text, penstock_text_sink sink, void* context) noexcept {
    sink(context, text.data(), text.size());
  }
  template <typename Make>
  static void put_text(Make make, penstock_text_sink sink, void* context) noexcept {
    try {
      put(make(), sink, context);
    } catch (const std::exception& e) {
      put(e.what(), sink, context);
    }
  }

  static std::int32_t report(penstock_error* error, Errc code, const char* text) noexcept {
    error->code = static_cast<std::int32_t>(code);
    const std::size_t length = std::min(std::strlen(text), error->capacity - 1);
    std::memcpy(error->text, text, length);
    error->text[length] = '\0';
    return error->code;
  }
  template <typename Body>
  static std::int32_t guarded(penstock_error* error, Body body) noexcept {
    try {
      body();
      return PENSTOCK_OK;
    } catch (const SetupError& e) {
      return report(error, e.errc(), e.what());
    } catch (const std::bad_alloc&) {
      return report(error, Errc::resource_limit, "out of memory");
    } catch (const std::exception& e) {
      return report(error, Errc::system, e.what());
    } catch (...) {
      return report(error, Errc::system, "unknown exception in a transport module");
    }
  }

  static std::int32_t provider_create(penstock_provider** out, penstock_error* error) noexcept {
    return guarded(error, [&] {
      *out = reinterpret_cast<penstock_provider*>(std::make_unique<Provider>().release());
    });
  }

  static void option_names(const penstock_provider* p, penstock_text_sink sink,
                           void* context) noexcept {
    try {
      for (const std::string& name : provider(p)->option_names()) put(name, sink, context);
    } catch (const std::exception&) {
      return;  // out of memory: the options that were not named are refused as unknown
    }
  }

  static void option_help(const penstock_provider* p, const char* name, penstock_text_sink sink,
                          void* context) noexcept {
    try {
      const OptionHelp help = provider(p)->option_help(name);
      put(help.values, sink, context);
      put(help.text, sink, context);
    } catch (const std::exception&) {
      return;  // out of memory: no help
    }
  }

  static std::int32_t provider_rails(const penstock_provider* p, const char* options,
                                     const char* local_host, penstock_text_sink sink, void* context,
                                     penstock_error* error) noexcept {
    return guarded(error, [&] {
      for (const std::string& rail : provider(p)->rails(options, local_host))
        put(rail, sink, context);
    });
  }

  static std::int32_t probe(const penstock_provider* p, penstock_text_sink reason,
                            penstock_text_sink json, void* context) noexcept {
    try {
      const ProbeReport report = provider(p)->probe();
      put(report.reason, reason, context);
      put(report.json, json, context);
      return report.available ? 1 : 0;
    } catch (const std::exception& e) {
      put(e.what(), reason, context);
      put("[]", json, context);
      return 0;
    }
  }

  static std::int32_t link_open(penstock_provider* p, const penstock_link_config* config,
                                penstock_link** out, penstock_error* error) noexcept {
    return guarded(error, [&] {
      LinkConfig copy{.local_host = config->local_host,
                      .peer_host = config->peer_host,
                      .options = config->options,
                      .regions = {}};
      for (const penstock_region& r : std::span(config->regions, config->region_count))
        copy.regions.push_back({.base = static_cast<std::byte*>(r.base),
                                .length = static_cast<std::size_t>(r.length),
                                .remote_write = r.remote_write != 0});
      std::unique_ptr<Link> made = provider(p)->open(copy);
      *out = reinterpret_cast<penstock_link*>(made.release());
    });
  }

  static std::int32_t link_describe(const penstock_link* l, void* buffer, std::size_t* length,
                                    penstock_error* error) noexcept {
    return guarded(error, [&] {
      const std::vector<std::byte> description = link(l)->describe();
      if (description.size() > *length)
        throw SetupError(Errc::system, "the link's description does not fit the buffer");
      std::memcpy(buffer, description.data(), description.size());
      *length = description.size();
    });
  }

  static std::int32_t link_connect(penstock_link* l, const void* peer, std::size_t length,
                                   penstock_error* error) noexcept {
    return guarded(
        error, [&] { link(l)->connect(std::span(static_cast<const std::byte*>(peer), length)); });
  }

  static void link_limits(const penstock_link* l, penstock_limits* out) noexcept {
    const LinkLimits limits = link(l)->limits();
    out->max_writes = std::min(limits.max_writes, std::uint32_t{kMaxWrites});
    out->max_write = limits.max_write;
    out->packet = limits.packet;
    out->receives = limits.receives;
    out->ordered_writes = limits.ordered_writes ? 1 : 0;
    // Programs of before there were landings have no room for it.
    if (out->struct_size >= offsetof(penstock_limits, landings) + sizeof out->landings)
      out->landings = limits.landings ? 1 : 0;
  }

  static std::int32_t link_post(penstock_link* l, const penstock_write* writes, std::size_t count,
                                const std::uint32_t* immediate, std::uint64_t cookie) noexcept {
    if (count > kMaxWrites) return PENSTOCK_POST_FAILED;
    Few<RemoteWrite, kMaxWrites> copy;
    for (const auto& w : std::span(writes, count))
      copy.add({.source = static_cast<const std::byte*>(w.source),
                .length = w.length,
                .region = w.region,
                .offset = w.offset,
                .copied = (w.flags & PENSTOCK_WRITE_COPIED) != 0});
    std::optional<std::uint32_t> value;
    if (immediate != nullptr) value = *immediate;
    return static_cast<std::int32_t>(link(l)->post(copy.all(), value, cookie));
  }

  static penstock_memory* link_add_memory(penstock_link* l, const penstock_region* memory,
                                          penstock_place* place) noexcept {
    auto made = link(l)->add_memory({.base = static_cast<std::byte*>(memory->base),
                                     .length = static_cast<std::size_t>(memory->length),
                                     .remote_write = memory->remote_write != 0});
    if (made) std::ranges::copy(made->place(), place->word);
    return reinterpret_cast<penstock_memory*>(made.release());
  }

  static std::int32_t link_land(penstock_link* l, const penstock_landing* landing,
                                std::uint64_t cookie) noexcept {
    LandingWrite write{.source = reinterpret_cast<const LinkMemory*>(landing->source),
                       .offset = landing->offset,
                       .length = landing->length};
    std::ranges::copy(landing->place.word, write.place.begin());
    return static_cast<std::int32_t>(link(l)->land(write, cookie));
  }

  static std::size_t link_poll(penstock_link* l, penstock_event* events,
                               std::size_t capacity) noexcept {
    std::array<LinkEvent, kMaxEvents> taken;
    const std::size_t count =
        link(l)->poll(std::span(taken.data(), std::min(capacity, taken.size())));
    std::transform(taken.begin(), taken.begin() + static_cast<std::ptrdiff_t>(count), events,
                   [](const LinkEvent& e) {
                     return penstock_event{.kind = static_cast<std::uint32_t>(e.kind),
                                           .reserved = 0,
                                           .value = e.value};
                   });
    return count;
  }

  static void link_counters(const penstock_link* l, penstock_counters* out) noexcept {
    const LinkCounters counters = link(l)->counters();
    out->posts = counters.posts;
    out->work_requests = counters.work_requests;
    out->completions = counters.completions;
    out->immediates = counters.immediates;
  }
};

}  // namespace penstock::inline v1::plugin

#define PENSTOCK_EXPORT_TRANSPORT(Provider)                                   \
  extern "C" __attribute__((visibility("default"))) const penstock_transport* \
  penstock_transport_v1(void) {                                               \
    return penstock::plugin::Exported<Provider>::table();                     \
  }
