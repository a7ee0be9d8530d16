// A shared object that is no transport module.
extern "C" __attribute__((visibility("default"))) int penstock_test_nothing() { return 0; }
