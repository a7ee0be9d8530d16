#include "penstock/transport/uri.hpp"

#include <gtest/gtest.h>

#include <string>

#include "penstock/transport/error.hpp"

namespace penstock {
namespace {

TEST(Uri, a_local_channel_is_a_scheme_and_a_name) {
  const auto uri = Uri::parse("shm:orders?capacity=1MiB&window=4096");
  EXPECT_EQ(uri.scheme, "shm");
  EXPECT_EQ(uri.name, "orders");
  EXPECT_TRUE(uri.host.empty());
  EXPECT_EQ(uri.port, 0);
  EXPECT_EQ(uri.options.at("capacity"), "1MiB");
  EXPECT_EQ(uri.text(), "shm:orders?capacity=1MiB&window=4096");
}

TEST(Uri, a_remote_channel_has_host_port_and_name) {
  const auto uri = Uri::parse("rdma://192.0.2.7:7000/a/b?gid_index=3");
  EXPECT_EQ(uri.host, "192.0.2.7");
  EXPECT_EQ(uri.port, 7000);
  EXPECT_EQ(uri.name, "a/b");
  EXPECT_EQ(uri.query(), "gid_index=3");
  EXPECT_EQ(Uri::parse("rdma://[fe80::1%25eth0]:1/x").host, "fe80::1%25eth0");
  EXPECT_EQ(Uri::parse("rdma://[::1]:7000").text(), "rdma://[::1]:7000");
  EXPECT_EQ(Uri::parse("rdma://:7000/x").port, 7000);
}

TEST(Uri, what_is_malformed_is_refused_with_a_reason) {
  for (const char* text :
       {"", "orders", ":orders", "SHM:orders", "sh m:x", "rdma://host:70000/x", "rdma://host:/x",
        "rdma://host:7x/x", "rdma://[::1/x", "rdma://::1:7000/x", "rdma://h%st^:1/x", "shm:a?b",
        "shm:a?=b", "shm:a?b=1&b=2", "shm:a b", "shm:a#b", "shm:a\nb", "shm:\xff"}) {
    try {
      (void)Uri::parse(text);
      ADD_FAILURE() << "'" << text << "' was taken";
    } catch (const SetupError& e) {
      EXPECT_EQ(e.errc(), Errc::bad_uri) << text;
      EXPECT_GT(std::string(e.what()).size(), 20U) << text;
    }
  }
  EXPECT_THROW((void)Uri::parse("shm:" + std::string(91, 'x')), SetupError);
  EXPECT_THROW((void)Uri::parse("shm:" + std::string(2000, 'x')), SetupError);
}

}  // namespace
}  // namespace penstock
