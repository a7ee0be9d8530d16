// The ucx transport linked into the program: registers itself before main().
#include <memory>

#include "penstock/rdma/ucx/ucx_provider.hpp"
#include "penstock/transport/registry.hpp"

// Nothing refers to this file by itself; programs that link penstock::ucx ask for this symbol.
extern "C" const bool penstock_ucx_registered = [] {
  penstock::register_links(std::make_shared<penstock::ucx::UcxProvider>());
  return true;
}();
