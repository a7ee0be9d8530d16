/* Concurrency Kit's ring is C: its calls, out of line, for ck_ring.cpp. */
#include <ck_ring.h>
#include <stdint.h>
#include <stdlib.h>

struct item8 {
  uint64_t word[1];
};
struct item64 {
  uint64_t word[8];
};
CK_RING_PROTOTYPE(item8, item8)
CK_RING_PROTOTYPE(item64, item64)

/* The ring and its buffer. */
struct contest_ring {
  ck_ring_t ring;
  void* buffer;
};

struct contest_ring* contest_ck_make(size_t slots, size_t item) {
  struct contest_ring* made = aligned_alloc(
      CK_MD_CACHELINE, (sizeof *made + CK_MD_CACHELINE - 1) / CK_MD_CACHELINE * CK_MD_CACHELINE);
  if (made == NULL) abort();
  made->buffer = aligned_alloc(CK_MD_CACHELINE, slots * item);
  if (made->buffer == NULL) abort();
  ck_ring_init(&made->ring, (unsigned int)slots);
  return made;
}

void contest_ck_free(struct contest_ring* made) {
  free(made->buffer);
  free(made);
}

#define CALLS(item)                                                                 \
  bool contest_ck_send_spsc_##item(struct contest_ring* r, struct item* value) {    \
    return CK_RING_ENQUEUE_SPSC(item, &r->ring, r->buffer, value);                  \
  }                                                                                 \
  bool contest_ck_receive_spsc_##item(struct contest_ring* r, struct item* value) { \
    return CK_RING_DEQUEUE_SPSC(item, &r->ring, r->buffer, value);                  \
  }                                                                                 \
  bool contest_ck_send_mpmc_##item(struct contest_ring* r, struct item* value) {    \
    return CK_RING_ENQUEUE_MPMC(item, &r->ring, r->buffer, value);                  \
  }                                                                                 \
  bool contest_ck_receive_mpmc_##item(struct contest_ring* r, struct item* value) { \
    return CK_RING_DEQUEUE_MPMC(item, &r->ring, r->buffer, value);                  \
  }
CALLS(item8)
CALLS(item64)
