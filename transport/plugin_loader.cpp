#include "penstock/transport/plugin_loader.hpp"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>
#include <set>
#include <span>
#include <system_error>
#include <utility>

#include "penstock/transport/error.hpp"
#include "penstock/transport/plugin.h"

namespace penstock::inline v1 {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "penstock_";
constexpr std::string_view kSuffix = ".so";
constexpr std::size_t kDescription = 4096;  // what link.hpp allows
// Translations of writes and events live on the stack.
constexpr std::size_t kMaxWrites = 32;
constexpr std::size_t kMaxEvents = 32;

bool is_scheme(std::string_view text) {
  return !text.empty() && text.size() <= 32 && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
  });
}

[[noreturn]] void broken(const std::string& file, const std::string& why) {
  throw SetupError(Errc::module_broken, "transport module " + file + " cannot be used: " + why);
}

// Sinks are called from C, so nothing may leave them: text for which there is no memory is lost.
void append_text(void* context, const char* text, std::size_t length) noexcept {
  try {
    static_cast<std::string*>(context)->append(text, length);
  } catch (const std::bad_alloc&) {
    return;
  }
}
void append_name(void* context, const char* text, std::size_t length) noexcept {
  try {
    static_cast<std::vector<std::string>*>(context)->emplace_back(text, length);
  } catch (const std::bad_alloc&) {
    return;
  }
}

/// Where a module puts its error.
class ErrorText {
 public:
  [[nodiscard]] penstock_error* out() noexcept { return &error_; }
  /// Throws what a module reported by returning `code`.
  void check(std::int32_t code) {
    if (code == PENSTOCK_OK) return;
    text_.back() = '\0';
    const bool known = code >= PENSTOCK_BAD_URI && code <= PENSTOCK_SYSTEM;
    throw SetupError(known ? static_cast<Errc>(code) : Errc::system, text_.data());
  }

 private:
  std::array<char, 2048> text_{};
  penstock_error error_{.struct_size = sizeof(penstock_error),
                        .code = PENSTOCK_OK,
                        .capacity = text_.size(),
                        .text = text_.data()};
};

class ModuleProvider;

/// The table of a module of before there were landings ends here.
constexpr std::size_t kTableBeforeLandings = offsetof(penstock_transport, link_add_memory);
/// ... and of before there were rails, here.
constexpr std::size_t kTableBeforeRails = offsetof(penstock_transport, provider_rails);
/// ... and of before events came apart, here.
constexpr std::size_t kTableBeforeApart = offsetof(penstock_transport, link_events_apart);
/// ... and of before options were explained, here.
constexpr std::size_t kTableBeforeHelp = offsetof(penstock_transport, option_help);

bool has_landings(const penstock_transport& t) {
  return t.struct_size >= kTableBeforeRails && t.link_add_memory && t.link_drop_memory &&
         t.link_land;
}

class ModuleMemory final : public LinkMemory {
 public:
  ModuleMemory(const penstock_transport& module, penstock_link* link) noexcept
      : module_(module), link_(link) {}
  ModuleMemory(const ModuleMemory&) = delete;
  ModuleMemory& operator=(const ModuleMemory&) = delete;
  ModuleMemory(ModuleMemory&&) = delete;
  ModuleMemory& operator=(ModuleMemory&&) = delete;
  ~ModuleMemory() override {
    if (memory_ != nullptr) module_.link_drop_memory(link_, memory_);
  }
  /// False: refused.
  [[nodiscard]] bool add(const LinkRegion& region) noexcept {
    const penstock_region plain{.base = region.base,
                                .length = region.length,
                                .remote_write = region.remote_write ? 1U : 0U,
                                .reserved = 0};
    penstock_place place{};
    memory_ = module_.link_add_memory(link_, &plain, &place);
    std::ranges::copy(place.word, place_.begin());
    return memory_ != nullptr;
  }
  [[nodiscard]] LandingPlace place() const noexcept override { return place_; }
  [[nodiscard]] const penstock_memory* get() const noexcept { return memory_; }

 private:
  const penstock_transport& module_;
  penstock_link* link_;
  penstock_memory* memory_ = nullptr;
  LandingPlace place_{};
};

class ModuleLink final : public Link {
 public:
  ModuleLink(std::shared_ptr<const ModuleProvider> provider, const penstock_transport& module,
             penstock_link* link) noexcept
      : provider_(std::move(provider)), module_(module), link_(link) {
    read_limits();
  }
  ModuleLink(const ModuleLink&) = delete;
  ModuleLink& operator=(const ModuleLink&) = delete;
  ModuleLink(ModuleLink&&) = delete;
  ModuleLink& operator=(ModuleLink&&) = delete;
  ~ModuleLink() override { module_.link_close(link_); }

  [[nodiscard]] std::vector<std::byte> describe() const override {
    std::vector<std::byte> description(kDescription);
    std::size_t length = description.size();
    ErrorText error;
    error.check(module_.link_describe(link_, description.data(), &length, error.out()));
    description.resize(std::min(length, kDescription));
    return description;
  }
  void connect(std::span<const std::byte> peer) override {
    ErrorText error;
    error.check(module_.link_connect(link_, peer.data(), peer.size(), error.out()));
    read_limits();  // what the two ends agreed on may be less than what this end has
  }
  [[nodiscard]] LinkLimits limits() const noexcept override { return limits_; }

  [[nodiscard]] PostStatus post(std::span<const RemoteWrite> writes,
                                std::optional<std::uint32_t> immediate,
                                std::uint64_t cookie) noexcept override {
    if (writes.size() > kMaxWrites) return PostStatus::failed;
    std::array<penstock_write, kMaxWrites> copy;
    std::ranges::transform(writes, copy.begin(), [](const RemoteWrite& w) {
      return penstock_write{.source = w.source,
                            .offset = w.offset,
                            .length = w.length,
                            .region = w.region,
                            .flags = w.copied ? PENSTOCK_WRITE_COPIED : 0,
                            .reserved = 0};
    });
    return post_status(module_.link_post(link_, copy.data(), writes.size(),
                                         immediate ? &*immediate : nullptr, cookie));
  }
  [[nodiscard]] std::unique_ptr<LinkMemory> add_memory(const LinkRegion& memory) noexcept override {
    if (!limits_.landings) return nullptr;
    std::unique_ptr<ModuleMemory> made(new (std::nothrow) ModuleMemory(module_, link_));
    if (!made || !made->add(memory)) return nullptr;
    return made;
  }
  [[nodiscard]] PostStatus land(const LandingWrite& write, std::uint64_t cookie) noexcept override {
    penstock_landing plain{.struct_size = sizeof(penstock_landing),
                           .length = write.length,
                           .source = static_cast<const ModuleMemory*>(write.source)->get(),
                           .offset = write.offset,
                           .place = {}};
    std::ranges::copy(write.place, plain.place.word);
    return post_status(module_.link_land(link_, &plain, cookie));
  }
  [[nodiscard]] std::size_t poll(std::span<LinkEvent> events) noexcept override {
    std::array<penstock_event, kMaxEvents> taken;
    const std::size_t room = std::min(events.size(), taken.size());
    const std::size_t count = std::min(module_.link_poll(link_, taken.data(), room), room);
    std::transform(taken.begin(), taken.begin() + static_cast<std::ptrdiff_t>(count),
                   events.begin(), [](const penstock_event& e) {
                     // a kind that is not known means that nothing can be relied upon any more
                     const auto kind = e.kind <= PENSTOCK_FAILED
                                           ? static_cast<LinkEvent::Kind>(e.kind)
                                           : LinkEvent::Kind::failed;
                     return LinkEvent{.kind = kind, .value = e.value};
                   });
    return count;
  }

  void arm(bool completions, bool immediates) noexcept override {
    module_.link_arm(link_, (completions ? PENSTOCK_ARM_COMPLETIONS : 0U) |
                                (immediates ? PENSTOCK_ARM_IMMEDIATES : 0U));
  }
  void disarm() noexcept override { module_.link_disarm(link_); }
  [[nodiscard]] int event_fd() const noexcept override { return module_.link_event_fd(link_); }
  [[nodiscard]] int events_apart(bool apart) noexcept override {
    if (module_.struct_size < kTableBeforeHelp || module_.link_events_apart == nullptr) return -1;
    return module_.link_events_apart(link_, apart ? 1 : 0);
  }

  [[nodiscard]] std::string error() const override {
    std::string text;
    module_.link_error(link_, &append_text, &text);
    return text;
  }
  [[nodiscard]] LinkCounters counters() const noexcept override {
    penstock_counters counters{.struct_size = sizeof(penstock_counters),
                               .reserved = 0,
                               .posts = 0,
                               .work_requests = 0,
                               .completions = 0,
                               .immediates = 0};
    module_.link_counters(link_, &counters);
    return {.posts = counters.posts,
            .work_requests = counters.work_requests,
            .completions = counters.completions,
            .immediates = counters.immediates};
  }
  [[nodiscard]] std::string path() const override {
    std::string text;
    module_.link_path(link_, &append_text, &text);
    return text;
  }

 private:
  [[nodiscard]] static PostStatus post_status(std::int32_t code) noexcept {
    switch (code) {
      case PENSTOCK_POSTED: return PostStatus::posted;
      case PENSTOCK_NO_ROOM: return PostStatus::no_room;
      default: return PostStatus::failed;
    }
  }
  void read_limits() noexcept {
    penstock_limits limits{.struct_size = sizeof(penstock_limits),
                           .max_writes = 0,
                           .max_write = 0,
                           .packet = 0,
                           .receives = 0,
                           .ordered_writes = 0,
                           .landings = 0};
    module_.link_limits(link_, &limits);
    limits_ = {.max_writes = std::min(limits.max_writes, std::uint32_t{kMaxWrites}),
               .max_write = limits.max_write,
               .packet = limits.packet,
               .receives = limits.receives,
               .ordered_writes = limits.ordered_writes != 0,
               .landings = limits.landings != 0 && has_landings(module_)};
  }

  std::shared_ptr<const ModuleProvider> provider_;  // outlives its links
  const penstock_transport& module_;
  penstock_link* link_;
  LinkLimits limits_;
};

class ModuleProvider final : public LinkProvider,
                             public std::enable_shared_from_this<ModuleProvider> {
 public:
  /// Throws SetupError as the module reports it.
  explicit ModuleProvider(const penstock_transport& module) : module_(module) {
    ErrorText error;
    error.check(module_.provider_create(&provider_, error.out()));
    module_.scheme(provider_, &append_text, &scheme_);
  }
  ModuleProvider(const ModuleProvider&) = delete;
  ModuleProvider& operator=(const ModuleProvider&) = delete;
  ModuleProvider(ModuleProvider&&) = delete;
  ModuleProvider& operator=(ModuleProvider&&) = delete;
  ~ModuleProvider() override { module_.provider_destroy(provider_); }

  [[nodiscard]] std::string_view scheme() const noexcept override { return scheme_; }
  [[nodiscard]] std::vector<std::string> option_names() const override {
    std::vector<std::string> names;
    module_.option_names(provider_, &append_name, &names);
    return names;
  }
  [[nodiscard]] OptionHelp option_help(const std::string& name) const override {
    if (module_.struct_size <= kTableBeforeHelp || module_.option_help == nullptr) return {};
    std::vector<std::string> texts;
    module_.option_help(provider_, name.c_str(), &append_name, &texts);
    texts.resize(2);
    return {std::move(texts[0]), std::move(texts[1])};
  }
  void check(const std::string& options) const override {
    ErrorText error;
    error.check(module_.provider_check(provider_, options.c_str(), error.out()));
  }
  [[nodiscard]] std::vector<std::string> rails(const std::string& options,
                                               const std::string& local_host) const override {
    if (module_.struct_size < kTableBeforeApart || module_.provider_rails == nullptr)
      return {options};
    std::vector<std::string> rails;
    ErrorText error;
    error.check(module_.provider_rails(provider_, options.c_str(), local_host.c_str(), &append_name,
                                       &rails, error.out()));
    if (rails.empty()) rails.push_back(options);
    return rails;
  }
  [[nodiscard]] ProbeReport probe() const override {
    ProbeReport report;
    report.available = module_.probe(
                           provider_,
                           [](void* context, const char* text, std::size_t length) noexcept {
                             append_text(&static_cast<ProbeReport*>(context)->reason, text, length);
                           },
                           [](void* context, const char* text, std::size_t length) noexcept {
                             append_text(&static_cast<ProbeReport*>(context)->json, text, length);
                           },
                           &report) != 0;
    if (report.json.empty()) report.json = "[]";
    return report;
  }
  [[nodiscard]] std::unique_ptr<Link> open(const LinkConfig& config) override {
    std::vector<penstock_region> regions;
    regions.reserve(config.regions.size());
    for (const LinkRegion& r : config.regions)
      regions.push_back({.base = r.base,
                         .length = r.length,
                         .remote_write = r.remote_write ? 1U : 0U,
                         .reserved = 0});
    const penstock_link_config plain{.struct_size = sizeof(penstock_link_config),
                                     .region_count = static_cast<std::uint32_t>(regions.size()),
                                     .local_host = config.local_host.c_str(),
                                     .peer_host = config.peer_host.c_str(),
                                     .options = config.options.c_str(),
                                     .regions = regions.data()};
    ErrorText error;
    penstock_link* link = nullptr;
    error.check(module_.link_open(provider_, &plain, &link, error.out()));
    return std::make_unique<ModuleLink>(shared_from_this(), module_, link);
  }

 private:
  const penstock_transport& module_;
  penstock_provider* provider_ = nullptr;
  std::string scheme_;
};

struct Unload {
  void operator()(void* library) const noexcept { ::dlclose(library); }
};

bool complete(const penstock_transport& t) {
  return t.provider_create && t.provider_destroy && t.scheme && t.option_names && t.probe &&
         t.link_open && t.link_close && t.link_describe && t.link_connect && t.link_limits &&
         t.link_post && t.link_poll && t.link_arm && t.link_disarm && t.link_event_fd &&
         t.link_error && t.link_counters && t.link_path && t.provider_check;
}

std::shared_ptr<LinkProvider> load(const std::string& file, std::string_view scheme) {
  std::unique_ptr<void, Unload> library(::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL));
  if (!library) {
    const char* why = ::dlerror();
    broken(file, why != nullptr ? why : "the loader gives no reason");
  }
  void* symbol = ::dlsym(library.get(), PENSTOCK_TRANSPORT_SYMBOL);
  if (symbol == nullptr)
    broken(file, "it exports no " PENSTOCK_TRANSPORT_SYMBOL
                 ", so it is no transport module for "
                 "this version of penstock");
  const penstock_transport* module = reinterpret_cast<decltype(&penstock_transport_v1)>(symbol)();
  if (module == nullptr) broken(file, PENSTOCK_TRANSPORT_SYMBOL " returned nothing");
  if (module->abi_version != PENSTOCK_TRANSPORT_ABI)
    broken(file, "it was built for version " + std::to_string(module->abi_version) +
                     " of the module interface and this penstock has version " +
                     std::to_string(PENSTOCK_TRANSPORT_ABI) + "; install the two from one release");
  if (module->struct_size < kTableBeforeLandings)
    broken(file, "its function table has " + std::to_string(module->struct_size) + " bytes, not " +
                     std::to_string(kTableBeforeLandings) +
                     " or more; install it and penstock from one release");
  if (!complete(*module)) broken(file, "its function table has empty entries");
  auto provider = std::make_shared<ModuleProvider>(*module);
  if (provider->scheme() != scheme)
    broken(file, "it is the transport '" + std::string(provider->scheme()) + "', not '" +
                     std::string(scheme) + "' as its name says");
  // Loaded for good: devices' libraries leave threads and handlers behind that would outlive it.
  static_cast<void>(library.release());
  return provider;
}

std::string directory_of_program() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  return error ? std::string{} : program.parent_path().string();
}

/// Of the shared library that holds this code; empty when the program itself does.
std::string directory_of_core() {
  Dl_info info{};
  link_map* map = nullptr;
  if (::dladdr1(reinterpret_cast<void*>(&module_search_path), &info, reinterpret_cast<void**>(&map),
                RTLD_DL_LINKMAP) == 0)
    return {};
  // For the program the loader knows argv[0] only, which may name something in the working
  // directory.
  if (map->l_name == nullptr || *map->l_name == '\0') return {};
  std::error_code error;
  const fs::path file = fs::canonical(map->l_name, error);
  return error ? std::string{} : file.parent_path().string();
}

void add_directory(std::vector<std::string>& path, std::string directory) {
  if (!directory.empty() && std::ranges::find(path, directory) == path.end())
    path.push_back(std::move(directory));
}

/// Those that the user names.
std::vector<std::string> given_path() {
  std::vector<std::string> path;
  const char* given = ::secure_getenv("PENSTOCK_PLUGIN_PATH");
  std::string_view rest = given != nullptr ? given : "";
  while (!rest.empty()) {
    const auto colon = rest.find(':');
    add_directory(path, std::string(rest.substr(0, colon)));
    rest = colon == std::string_view::npos ? std::string_view{} : rest.substr(colon + 1);
  }
  return path;
}

/// The module of this name there, if there is one. Of two it is not known which is meant.
fs::path find_given(const std::string& name) {
  fs::path found;
  for (const std::string& directory : given_path()) {
    const fs::path file = fs::path(directory) / name;
    std::error_code error;
    if (!fs::exists(file, error)) continue;
    if (!found.empty() && !fs::equivalent(found, file, error))
      broken(found, "there is another one, " + file.string() +
                        ": take one of the two out of PENSTOCK_PLUGIN_PATH");
    if (found.empty()) found = file;
  }
  return found;
}

}  // namespace

std::vector<std::string> module_search_path() {
  std::vector<std::string> path = given_path();
  const auto add = [&](std::string directory) { add_directory(path, std::move(directory)); };
  // What lies beside comes before what was installed earlier: a build tree runs its own modules.
  const auto add_place = [&](const std::string& directory, const char* modules) {
    if (directory.empty()) return;
    add(directory);
    add((fs::path(directory) / modules).lexically_normal().string());
  };
  add_place(directory_of_core(), "penstock");
  add_place(directory_of_program(), PENSTOCK_MODULES_FROM_BIN);
  add(PENSTOCK_MODULE_DIR);
  return path;
}

std::shared_ptr<LinkProvider> load_link_module(std::string_view scheme) {
  if (!is_scheme(scheme)) return nullptr;
  const std::string name = std::string(kPrefix) + std::string(scheme) + std::string(kSuffix);
  if (const fs::path given = find_given(name); !given.empty()) return load(given.string(), scheme);
  for (const std::string& directory : module_search_path()) {
    const fs::path file = fs::path(directory) / name;
    std::error_code error;
    if (fs::exists(file, error)) return load(file.string(), scheme);
  }
  return nullptr;
}

std::vector<std::string> find_modules() {
  std::set<std::string> schemes;
  for (const std::string& directory : module_search_path()) {
    std::error_code error;
    for (fs::directory_iterator it(directory, error), end; !error && it != end;
         it.increment(error)) {
      const std::string name = it->path().filename().string();
      if (name.size() <= kPrefix.size() + kSuffix.size() || !name.starts_with(kPrefix) ||
          !name.ends_with(kSuffix))
        continue;
      std::string scheme =
          name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size());
      if (is_scheme(scheme)) schemes.insert(std::move(scheme));
    }
  }
  return {schemes.begin(), schemes.end()};
}

}  // namespace penstock::inline v1
