/* The C interface of a transport module: one shared object `penstock_<scheme>.so` that exports the
 * function penstock_transport_v1(). It carries what transport/link.hpp says in C++, for compilers
 * and languages that do not share its ABI; the rules of each function (threads, lifetimes) are
 * those of the member of the same name there.
 *
 * Growth. Every struct that is passed by itself starts with its size; whoever made the struct sets
 * it, and the other side touches nothing beyond it. Fields are only ever added at the end. The
 * elements of arrays (penstock_region, penstock_write, penstock_event) never change within an ABI
 * version. abi_version changes when something existing does.
 *
 * Text is handed over by calling a sink, during the call that was given it. No exception and no
 * longjmp may leave a function of this interface, on either side.
 */
#ifndef PENSTOCK_TRANSPORT_PLUGIN_H
#define PENSTOCK_TRANSPORT_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PENSTOCK_TRANSPORT_ABI 1u
/* The name of penstock_transport_v1 as a string, for dlsym(). */
#define PENSTOCK_TRANSPORT_SYMBOL "penstock_transport_v1"

/* What functions that can fail return, and penstock_error::code. The order is Errc's. */
enum penstock_code {
  PENSTOCK_OK = 0,
  PENSTOCK_BAD_URI = 1,
  PENSTOCK_UNKNOWN_SCHEME = 2,
  PENSTOCK_TRANSPORT_UNAVAILABLE = 3,
  PENSTOCK_ADDRESS_IN_USE = 4,
  PENSTOCK_UNREACHABLE = 5,
  PENSTOCK_NO_SUCH_CHANNEL = 6,
  PENSTOCK_VERSION_MISMATCH = 7,
  PENSTOCK_FEATURE_MISMATCH = 8,
  PENSTOCK_GEOMETRY_MISMATCH = 9,
  PENSTOCK_TYPE_MISMATCH = 10,
  PENSTOCK_HANDSHAKE_FAILED = 11,
  PENSTOCK_RESOURCE_LIMIT = 12,
  PENSTOCK_MODULE_BROKEN = 13,
  PENSTOCK_FORKED = 14,
  PENSTOCK_SYSTEM = 15
};

/* Opaque; made and destroyed by the module. */
typedef struct penstock_provider penstock_provider;
typedef struct penstock_link penstock_link;
typedef struct penstock_memory penstock_memory;

/* Takes `length` bytes of UTF-8 text, not terminated, and copies what it wants to keep. */
typedef void (*penstock_text_sink)(void* context, const char* text, size_t length);

/* Filled by a function that fails. The caller owns the buffer. */
typedef struct penstock_error {
  uint32_t struct_size;
  int32_t code;    /* penstock_code */
  size_t capacity; /* bytes in `text`, at least 1 */
  char* text;      /* a whole sentence, truncated to fit, always terminated */
} penstock_error;

/* Memory of the caller, which keeps it alive until the link is closed. */
typedef struct penstock_region {
  void* base;
  uint64_t length;       /* bytes */
  uint32_t remote_write; /* 1: the peer may write here; 0: only a source of writes */
  uint32_t reserved;     /* 0 */
} penstock_region;

typedef struct penstock_link_config {
  uint32_t struct_size;
  uint32_t region_count;
  const char* local_host; /* numeric address of this end of the control connection */
  const char* peer_host;  /* and of its other end */
  const char* options;    /* the URI's query */
  const penstock_region* regions;
} penstock_link_config;

typedef struct penstock_limits {
  uint32_t struct_size;
  uint32_t max_writes;     /* in one post, at least 3 */
  uint32_t max_write;      /* bytes in one write */
  uint32_t packet;         /* bytes that travel as one packet */
  uint32_t receives;       /* immediates that may be on their way at once */
  uint32_t ordered_writes; /* 1: writes are placed in the order in which they were posted */
  uint32_t landings;       /* 1: link_add_memory() and link_land() may be used */
} penstock_limits;

typedef struct penstock_counters {
  uint32_t struct_size;
  uint32_t reserved; /* 0 */
  uint64_t posts;
  uint64_t work_requests;
  uint64_t completions;
  uint64_t immediates;
} penstock_counters;

#define PENSTOCK_WRITE_COPIED 1u /* the source is read before link_post() returns; <= 64 bytes */

typedef struct penstock_write {
  const void* source;
  uint64_t offset; /* in the peer's region */
  uint32_t length; /* bytes */
  uint32_t region; /* which of the peer's remote_write regions */
  uint32_t flags;  /* PENSTOCK_WRITE_... */
  uint32_t reserved;
} penstock_write;

/* Where memory lies that a peer may write, in words of the transport's own. */
typedef struct penstock_place {
  uint64_t word[4];
} penstock_place;

typedef struct penstock_landing {
  uint32_t struct_size;
  uint32_t length; /* bytes */
  const penstock_memory* source;
  uint64_t offset; /* in both */
  penstock_place place;
} penstock_landing;

enum penstock_event_kind {
  PENSTOCK_COMPLETED = 0, /* all posts up to and including the cookie `value` have landed */
  PENSTOCK_IMMEDIATE = 1, /* `value` is an immediate from the peer */
  PENSTOCK_FAILED = 2     /* the link is dead; link_error() says why. Reported once */
};

typedef struct penstock_event {
  uint32_t kind; /* penstock_event_kind */
  uint32_t reserved;
  uint64_t value;
} penstock_event;

enum penstock_post_status { PENSTOCK_POSTED = 0, PENSTOCK_NO_ROOM = 1, PENSTOCK_POST_FAILED = 2 };

#define PENSTOCK_ARM_COMPLETIONS 1u
#define PENSTOCK_ARM_IMMEDIATES 2u

/* A transport. It and everything it points to live as long as the process. None may be null, but
 * for those that say so. */
typedef struct penstock_transport {
  uint32_t struct_size;
  uint32_t abi_version; /* PENSTOCK_TRANSPORT_ABI */

  /* The provider: thread-safe. */
  int32_t (*provider_create)(penstock_provider** provider, penstock_error* error);
  void (*provider_destroy)(penstock_provider* provider);
  void (*scheme)(const penstock_provider* provider, penstock_text_sink sink, void* context);
  /* Calls the sink once for each option. */
  void (*option_names)(const penstock_provider* provider, penstock_text_sink sink, void* context);
  /* Returns whether links can be made here. `reason` gets why not and what to do; `json` gets the
   * devices as a JSON array. Each is called at most once. */
  int32_t (*probe)(const penstock_provider* provider, penstock_text_sink reason,
                   penstock_text_sink json, void* context);

  /* A link: one call at a time, except link_event_fd(). */
  int32_t (*link_open)(penstock_provider* provider, const penstock_link_config* config,
                       penstock_link** link, penstock_error* error);
  void (*link_close)(penstock_link* link);
  /* `length` is the capacity of `buffer` (4096) on entry and the description's length on return. */
  int32_t (*link_describe)(const penstock_link* link, void* buffer, size_t* length,
                           penstock_error* error);
  int32_t (*link_connect)(penstock_link* link, const void* peer, size_t length,
                          penstock_error* error);
  void (*link_limits)(const penstock_link* link, penstock_limits* limits);
  /* `immediate` is null for none. Returns a penstock_post_status. */
  int32_t (*link_post)(penstock_link* link, const penstock_write* writes, size_t count,
                       const uint32_t* immediate, uint64_t cookie);
  size_t (*link_poll)(penstock_link* link, penstock_event* events, size_t capacity);
  void (*link_arm)(penstock_link* link, uint32_t kinds); /* PENSTOCK_ARM_... */
  void (*link_disarm)(penstock_link* link);
  int32_t (*link_event_fd)(const penstock_link* link);
  void (*link_error)(const penstock_link* link, penstock_text_sink sink, void* context);
  void (*link_counters)(const penstock_link* link, penstock_counters* counters);
  void (*link_path)(const penstock_link* link, penstock_text_sink sink, void* context);

  /* Whether a link can be made here with these options, the URI's query. */
  int32_t (*provider_check)(const penstock_provider* provider, const char* options,
                            penstock_error* error);

  /* Landings: all three, or a table that ends before them, or null. */

  /* Adds memory to the link, for one message, and says where it lies. Null: refused. May be called
   * beside any other function, like link_drop_memory(), which comes before link_close(). */
  penstock_memory* (*link_add_memory)(penstock_link* link, const penstock_region* memory,
                                      penstock_place* place);
  void (*link_drop_memory)(penstock_link* link, penstock_memory* memory);
  /* Returns a penstock_post_status. */
  int32_t (*link_land)(penstock_link* link, const penstock_landing* landing, uint64_t cookie);

  /* Calls the sink once for each rail that the options ask for, with the options to open it with.
   * `local_host` is empty where it is not known yet. A table may end before this: one rail. */
  int32_t (*provider_rails)(const penstock_provider* provider, const char* options,
                            const char* local_host, penstock_text_sink sink, void* context,
                            penstock_error* error);

  /* Where `apart` is not 0, what was armed makes the descriptor that this returns readable instead
   * of link_event_fd(), which tells of everything else as before. -1: there is none, or no
   * memory left for it, and nothing has changed. A table may end before this, or have null: always
   * -1. */
  int32_t (*link_events_apart)(penstock_link* link, int32_t apart);

  /* Calls the sink with what the option takes, first its value where it is not given ("16; 1 to
   * 31"), then with a sentence that says what it is. A table may end before this, or have null. */
  void (*option_help)(const penstock_provider* provider, const char* name, penstock_text_sink sink,
                      void* context);
} penstock_transport;

/* The one symbol that a module exports. */
const penstock_transport* penstock_transport_v1(void);

#ifdef __cplusplus
}
#endif

#endif
