// CUDA's execution model on one CPU thread, for the part of it that the kernels use.
//
// The threads of a thread block are fibers that run in turn, each to its next collective (__syncthreads, __syncwarp, a
// shuffle or a ballot); a collective is over when all threads of the block or warp stand at the same one. Blocks run one
// after the other, so that __shared__ is `static`. A collective that some thread never reaches is an error, not a hang.
// The fibers are taken first to last or last to first: results must not depend on it. An access that is not aligned to
// its own size, at which a GPU stops, is an error too: the compiler's sanitizer reports it here.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __device__
#define __global__ EMULATED_KERNEL
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 { unsigned x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

namespace emulator {

enum Stop { RUNNING, DONE, BLOCK_BARRIER, WARP_BARRIER, SHUFFLE, BALLOT, FAILED };

struct Fiber {
    jmp_buf state;
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool started = false;
    Stop stop = DONE;
    bool released = false;
    unsigned phase = 0;            // parity of the warp collectives so far
    uint64_t slots[2] = {0, 0};    // what this lane gave to the last two
};

inline std::vector<Fiber> fibers;
inline jmp_buf scheduler;
inline unsigned current;
inline dim3 thread_index, block_index, block_size, grid_size;
inline void (*body)(void*);
inline void* body_argument;
inline bool misaligned;

enum Outcome { FINE, STUCK, MISALIGNED };

// Back to the scheduler, which resumes this fiber later.
__attribute__((noinline)) inline void leave() {
    if (_setjmp(fibers[current].state) == 0) _longjmp(scheduler, 1);
}

// A fiber outlives its kernel: it is started anew for each thread block.
inline void fiber_main() {
    for (;;) {
        body(body_argument);
        fibers[current].stop = DONE;
        leave();
    }
}

__attribute__((noinline)) inline void resume(unsigned index) {
    if (_setjmp(scheduler) != 0) return;
    current = index;
    thread_index = {index, 0, 0};
    Fiber& fiber = fibers[index];
    fiber.stop = RUNNING;
    if (fiber.started) _longjmp(fiber.state, 1);
    fiber.started = true;
    const size_t size = 1 << 17;
    fiber.stack.reset(new char[size]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = size;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
    setcontext(&fiber.context);
}

// Whether fibers [first, last) all stand at the same collective; then they may go on.
inline bool release(unsigned first, unsigned last, Stop lowest, Stop highest) {
    Stop stop = fibers[first].stop;
    if (stop < lowest || stop > highest) return false;
    for (unsigned i = first; i < last; ++i)
        if (fibers[i].stop != stop || fibers[i].released) return false;
    for (unsigned i = first; i < last; ++i) fibers[i].released = true;
    return true;
}

// Runs one thread block; false when a collective can never be complete.
inline bool run_block(bool backwards) {
    unsigned threads = block_size.x;
    for (unsigned i = 0; i < threads; ++i) fibers[i].stop = RUNNING, fibers[i].released = true;
    for (;;) {
        bool progress = false, alive = false;
        for (unsigned n = 0; n < threads; ++n) {
            unsigned i = backwards ? threads - 1 - n : n;
            if (!fibers[i].released) continue;
            fibers[i].released = false;
            resume(i);
            progress = true;
        }
        for (unsigned first = 0; first < threads; first += 32) {
            unsigned last = first + 32 < threads ? first + 32 : threads;
            release(first, last, WARP_BARRIER, BALLOT);
        }
        release(0, threads, BLOCK_BARRIER, BLOCK_BARRIER);
        for (unsigned i = 0; i < threads; ++i) alive = alive || fibers[i].stop != DONE;
        if (!alive) return true;
        if (!progress) return false;
    }
}

// A kernel's parameters as `EmulatedKernel` checks what they are given: a letter of the kind, and the size in bytes.
template <class T>
std::string described() {
    const char* kind = std::is_pointer<T>::value ? "p" : std::is_floating_point<T>::value ? "f"
                       : std::is_signed<T>::value ? "i" : "u";
    return kind + std::to_string(sizeof(T)) + " ";
}

template <class... A>
const char* parameters(void (*)(A...)) {
    static const std::string text = (std::string() + ... + described<A>());
    return text.c_str();
}

template <class... A>
int launch(void (*kernel)(A...), unsigned grid, unsigned block, void** arguments, int backwards) {
    std::tuple<A...> values;
    unsigned at = 0;
    std::apply([&](A&... value) { (std::memcpy(&value, arguments[at++], sizeof(A)), ...); }, values);
    auto call = [&] { std::apply(kernel, values); };
    body = [](void* closure) { (*(decltype(call)*)closure)(); };
    body_argument = &call;
    if (fibers.size() < block) {
        std::vector<Fiber> more(block);
        fibers.swap(more);
    }
    block_size = {block, 1, 1};
    grid_size = {grid, 1, 1};
    misaligned = false;
    for (unsigned b = 0; b < grid; ++b) {
        block_index = {backwards ? grid - 1 - b : b, 0, 0};
        if (!run_block(backwards)) {
            std::vector<Fiber>().swap(fibers);
            return misaligned ? MISALIGNED : STUCK;
        }
    }
    return FINE;
}

inline void wait_at(Stop stop) {
    fibers[current].stop = stop;
    leave();
}

// Gives `value` to the warp; afterwards slot(lane) is what each lane gave.
inline void exchange(Stop stop, uint64_t value) {
    Fiber& fiber = fibers[current];
    fiber.phase ^= 1;
    fiber.slots[fiber.phase] = value;
    wait_at(stop);
}

inline uint64_t slot(unsigned lane) {
    unsigned warp = current / 32 * 32;
    return fibers[warp + lane].slots[fibers[current].phase];
}

}  // namespace emulator

// What -fsanitize=alignment calls, and what ends the thread: nothing releases it.
extern "C" __attribute__((used, visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(void*, void*) {
    emulator::misaligned = true;
    emulator::wait_at(emulator::FAILED);
}

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size

inline void __syncthreads() { emulator::wait_at(emulator::BLOCK_BARRIER); }
inline void __threadfence() {}  // blocks run one after the other
inline void __syncwarp(unsigned = 0xFFFFFFFFu) { emulator::wait_at(emulator::WARP_BARRIER); }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
    static_assert(sizeof(T) <= 8 && std::is_arithmetic<T>::value, "a shuffle takes a number");
    if (mask != 0xFFFFFFFFu) std::abort();
    uint64_t given = 0;
    std::memcpy(&given, &value, sizeof(T));
    emulator::exchange(emulator::SHUFFLE, given);
    given = emulator::slot((emulator::current % 32) ^ distance);
    std::memcpy(&value, &given, sizeof(T));
    return value;
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    if (mask != 0xFFFFFFFFu) std::abort();
    emulator::exchange(emulator::BALLOT, predicate != 0);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < 32; ++lane) votes |= (unsigned)emulator::slot(lane) << lane;
    return votes;
}

template <class T>
T atomicAdd(T* address, T value) {
    T before = *address;
    *address += value;
    return before;
}

template <class To, class From>
To emulated_cast(From from) {
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
inline unsigned __float_as_uint(float x) { return emulated_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emulated_cast<float>(x); }
inline long long __double_as_longlong(double x) { return emulated_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return emulated_cast<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}
