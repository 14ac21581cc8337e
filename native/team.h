// A few threads that work on the same function and meet at barriers.
//
// Between the phases of one token lie microseconds: whoever waits there spins. Between tokens the others look for work
// for a moment and then sleep, so that an idle model costs nothing.
#pragma once

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bimo {

inline void pause_briefly() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Team {
  public:
    explicit Team(int size) : size_(size) {
        try {
            for (int member = 1; member < size; member++) workers_.emplace_back([this, member] { wait_for_work(member); });
        } catch (...) {  // no more threads here: those that run must end, or the process would
            dismiss();
            throw;
        }
    }

    ~Team() { dismiss(); }

    Team(const Team &) = delete;
    Team &operator=(const Team &) = delete;

    int size() const { return size_; }

    // Every member runs work(member); returns when all have.
    void run(const std::function<void(int)> &work) {
        work_ = &work;
        if (size_ > 1) start_round();
        work(0);
        barrier();
    }

    void barrier() {
        if (size_ == 1) return;
        const int phase = phase_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            phase_.store(phase + 1, std::memory_order_release);
            return;
        }
        for (int turns = 0; phase_.load(std::memory_order_acquire) == phase; turns++) {
            pause_briefly();
            // Where more threads than processors run, the one that is waited for needs this one's place.
            if (turns > SPINS_BEFORE_YIELD) std::this_thread::yield();
        }
    }

  private:
    static constexpr int SPINS_BEFORE_YIELD = 2'000;
    static constexpr int SPINS_BEFORE_SLEEP = 5'000;

    void dismiss() {
        leaving_ = true;
        start_round();
        for (auto &worker : workers_) worker.join();
    }

    void start_round() {
        round_.fetch_add(1, std::memory_order_release);
        round_.notify_all();
    }

    void wait_for_work(int member) {
        for (int seen = 0;; seen++) {
            for (int turns = 0; round_.load(std::memory_order_acquire) == seen; turns++) {
                if (turns < SPINS_BEFORE_SLEEP) pause_briefly();
                else round_.wait(seen, std::memory_order_acquire);
            }
            if (leaving_) return;
            (*work_)(member);
            barrier();
        }
    }

    const int size_;
    const std::function<void(int)> *work_ = nullptr;
    bool leaving_ = false;
    alignas(64) std::atomic<int> round_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> phase_{0};
    std::vector<std::thread> workers_;
};

} // namespace bimo
