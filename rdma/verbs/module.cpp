// The rdma transport as a module that is loaded at run time.
#include "penstock/rdma/verbs/verbs_provider.hpp"
#include "penstock/transport/plugin_export.hpp"

PENSTOCK_EXPORT_TRANSPORT(penstock::verbs::VerbsProvider)
