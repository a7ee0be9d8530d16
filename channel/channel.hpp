// penstock: one channel, any distance. Everything a program needs.
//
//   auto rx = penstock::bind("rdma://0.0.0.0:7000/orders");
//   auto tx = penstock::connect("rdma://192.0.2.7:7000/orders");
//
// The distance is in the URI: inproc:name (threads), shm:name (processes of one host),
// rdma://host:port/name (hosts). docs/contract.md states what holds on all of them.
#pragma once

#include "penstock/channel/options.hpp"        // IWYU pragma: export
#include "penstock/channel/receiver.hpp"       // IWYU pragma: export
#include "penstock/channel/sender.hpp"         // IWYU pragma: export
#include "penstock/channel/stats.hpp"          // IWYU pragma: export
#include "penstock/transport/error.hpp"        // IWYU pragma: export
#include "penstock/transport/link_budget.hpp"  // IWYU pragma: export
