// What modules are built against, for abidiff: the entry with all that it leads to, and the
// enumerations, whose values travel as plain integers.
#include "penstock/transport/plugin.h"

#define PENSTOCK_SHOWN __attribute__((visibility("default"), used))

extern "C" {
PENSTOCK_SHOWN const penstock_transport* penstock_transport_v1() { return nullptr; }
PENSTOCK_SHOWN void penstock_enumerations(penstock_code /*code*/, penstock_event_kind /*kind*/,
                                          penstock_post_status /*status*/) {}
}
