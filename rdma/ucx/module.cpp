// The ucx transport as a module that is loaded at run time.
#include "penstock/rdma/ucx/ucx_provider.hpp"
#include "penstock/transport/plugin_export.hpp"

PENSTOCK_EXPORT_TRANSPORT(penstock::ucx::UcxProvider)
