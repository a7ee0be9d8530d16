// Typed channels between threads: jobs to several workers, results back, a word to stop.
#include <penstock/channel/local_channel.hpp>
#include <penstock/channel/select.hpp>

#include <cstdint>
#include <iostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace ps = penstock::v2;

namespace {

struct Job {
  std::uint64_t number;
};
struct Result {
  std::uint64_t number;
  std::string text;
};

void work(ps::Receiver<Job, ps::spmc> jobs, ps::Sender<Result, ps::mpsc> results) {
  for (const Job& job : jobs)
    if (results.send(Result{job.number, std::to_string(job.number * job.number)}) !=
        penstock::SendStatus::sent)
      return;
}

}  // namespace

int main() {
  auto [jobs, job_source] = ps::channel<Job, ps::spmc>(64);
  auto [result_sink, results] = ps::channel<Result, ps::mpsc>(64);

  std::vector<std::jthread> workers;
  for (int i = 0; i < 3; ++i) workers.emplace_back(work, job_source.clone(), result_sink.clone());
  job_source = {};
  result_sink = {};

  constexpr std::uint64_t kJobs = 1000;
  std::uint64_t sum = 0;
  bool open = true;
  for (Job next{1}; open;) {
    // Sends the next job or takes a result, whichever can be done.
    auto take = ps::on_recv(results, [&](ps::Received<Result> result) {
      open = static_cast<bool>(result);
      if (result) sum += result->number;
    });
    if (next.number > kJobs) {
      jobs = {};  // no more: the workers end, then the results
      ps::select(take);
    } else {
      ps::select(take, ps::on_send(jobs, next, [&](penstock::SendStatus status) {
                   if (status == penstock::SendStatus::sent) ++next.number;
                 }));
    }
  }
  std::cout << kJobs << " jobs, sum of their numbers " << sum << '\n';
  return sum == kJobs * (kJobs + 1) / 2 ? 0 : 1;
}
