// The rdma transport linked into the program: registers itself before main().
#include <memory>

#include "penstock/rdma/verbs/verbs_provider.hpp"
#include "penstock/transport/registry.hpp"

// Nothing refers to this file by itself; programs that link penstock::rdma ask for this symbol.
extern "C" const bool penstock_rdma_registered = [] {
  penstock::register_links(std::make_shared<penstock::verbs::VerbsProvider>());
  return true;
}();
