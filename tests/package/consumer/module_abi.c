/* The module interface is C: it compiles as such. */
#include <penstock/transport/plugin.h>

_Static_assert(PENSTOCK_TRANSPORT_ABI == 1, "modules are built for this version");

/* The module's entry has the type that the header gives it. */
const struct penstock_transport* (*const entry)(void) = &penstock_transport_v1;
