// CUDA's execution model on one CPU thread, for the part of it that the kernels use.
//
// The threads of a thread block are fibers that run in turn, each to its next collective (__syncthreads, __syncwarp, a
// shuffle or a ballot); a collective is over when all threads of the block or warp stand at the same one. Blocks run one
// after the other, so that __shared__ is `static`. A collective that some thread never reaches is an error, not a hang.
// The fibers are taken first to last or last to first: results must not depend on it. An access that is not aligned to
// its own size, at which a GPU stops, is an error too: the compiler's sanitizer reports it here.
//
// Under ThreadSanitizer each thread of a block is one of its fibers, so that it finds races which no order of taking them
// shows. Order comes from barriers, atomics and launches, not from the turns; from the turns of blocks only where
// $CUDA_EMULATOR_BLOCKS is `ordered`: they have one __shared__ memory in turn, which else looks like a race.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __device__
#define __global__ EMULATED_KERNEL
#define __shared__ static
#define __launch_bounds__(...)
#define __noinline__ __attribute__((noinline))

struct dim3 { unsigned x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

namespace emulator {

enum Stop { RUNNING, DONE, BLOCK_BARRIER, WARP_BARRIER, SHUFFLE, BALLOT, FAILED };

#ifdef __SANITIZE_THREAD__

// What ThreadSanitizer is told, and how it must be switched: it follows neither longjmp nor a stack that is not its own.
// The emulator's own accesses are none of its business.
#define UNSEEN __attribute__((no_sanitize_thread, noinline))
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
const unsigned WITHOUT_ORDER = 1;  // a switch alone orders nothing

struct Switch {
    ucontext_t context;
    void* races = nullptr;
};
UNSEEN inline void change(Switch& from, Switch& to) {
    __tsan_switch_to_fiber(to.races, WITHOUT_ORDER);
    swapcontext(&from.context, &to.context);
}
UNSEEN inline void begin(Switch& from, Switch& to) { change(from, to); }
UNSEEN inline void acquire(void* what) { __tsan_acquire(what); }
UNSEEN inline void release(void* what) { __tsan_release(what); }

#else

#define UNSEEN

struct Switch {
    jmp_buf state;
    ucontext_t context;
};
__attribute__((noinline)) inline void change(Switch& from, Switch& to) {
    if (_setjmp(from.state) == 0) _longjmp(to.state, 1);
}
__attribute__((noinline)) inline void begin(Switch& from, Switch& to) {
    if (_setjmp(from.state) == 0) setcontext(&to.context);
}
inline void acquire(void*) {}
inline void release(void*) {}

#endif

struct Fiber {
    Switch turn;
    std::unique_ptr<char[]> stack;
    bool started = false;
    Stop stop = DONE;
    bool released = false;
    unsigned phase = 0;            // parity of the warp collectives so far
    unsigned block_phase = 0;      // and of the block's
    uint64_t slots[2] = {0, 0};    // what this lane gave to the last two
};

inline std::vector<Fiber> fibers;
// Stacks of blocks of this launch that have ended, and those that are free.
inline std::vector<std::unique_ptr<char[]>> past_stacks, free_stacks;
inline Switch scheduler;
inline unsigned current;
inline dim3 thread_index, block_index, block_size, grid_size;
inline void (*body)(void*);
inline void* body_argument;
inline bool misaligned;
// Places that order hangs on: a launch's begin and end, and barriers, each in turns.
inline const bool blocks_are_ordered = getenv("CUDA_EMULATOR_BLOCKS") != nullptr;
const unsigned TURNS = 4096;  // of blocks, whose barriers are places of their own, or they would order blocks
inline unsigned turn;
inline char launched[8], ended[8], block_barriers[TURNS][2][8], warp_barriers[TURNS][32][2][8];

enum Outcome { FINE, STUCK, MISALIGNED };

// Back to the scheduler, which resumes this fiber later.
UNSEEN inline void leave() { change(fibers[current].turn, scheduler); }

// A fiber outlives its kernel: it is started anew for each thread block.
UNSEEN inline void fiber_main() {
    for (;;) {
        acquire(launched);
        body(body_argument);
        release(ended);
        fibers[current].stop = DONE;
        leave();
    }
}

UNSEEN inline void resume(unsigned index) {
    current = index;
    thread_index = {index, 0, 0};
    Fiber& fiber = fibers[index];
    fiber.stop = RUNNING;
    if (fiber.started) return change(scheduler, fiber.turn);
    fiber.started = true;
    const size_t size = 1 << 17;
    if (free_stacks.empty()) {
        fiber.stack.reset(new char[size]);
    } else {
        fiber.stack = std::move(free_stacks.back());
        free_stacks.pop_back();
    }
    ucontext_t& context = fiber.turn.context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.get();
    context.uc_stack.ss_size = size;
    context.uc_link = nullptr;
    makecontext(&context, fiber_main, 0);
    begin(scheduler, fiber.turn);
}

// Whether fibers [first, last) all stand at the same collective; then they may go on.
UNSEEN inline bool let_go(unsigned first, unsigned last, Stop lowest, Stop highest) {
    Stop stop = fibers[first].stop;
    if (stop < lowest || stop > highest) return false;
    for (unsigned i = first; i < last; ++i)
        if (fibers[i].stop != stop || fibers[i].released) return false;
    for (unsigned i = first; i < last; ++i) fibers[i].released = true;
    return true;
}

#ifdef __SANITIZE_THREAD__
// The threads of a block, as long as it runs: those of the next one are others, with stacks of their own unless blocks
// are ordered.
struct Threads {
    unsigned count;
    UNSEEN explicit Threads(unsigned count) : count(count) {
        scheduler.races = __tsan_get_current_fiber();
        for (unsigned i = 0; i < count; ++i) {
            fibers[i].turn.races = __tsan_create_fiber(0);
            if (blocks_are_ordered || !fibers[i].started) continue;
            past_stacks.push_back(std::move(fibers[i].stack));
            fibers[i].started = false;
        }
    }
    UNSEEN ~Threads() {
        for (unsigned i = 0; i < count; ++i) __tsan_destroy_fiber(fibers[i].turn.races);
    }
};
#else
struct Threads {
    explicit Threads(unsigned) {}
};
#endif

// Runs one thread block; false when a collective can never be complete.
UNSEEN inline bool run_block(bool backwards) {
    unsigned threads = block_size.x;
    turn = (turn + 1) % TURNS;
    if (blocks_are_ordered) acquire(ended);
    release(launched);
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        fiber.stop = RUNNING, fiber.released = true, fiber.phase = fiber.block_phase = 0;
    }
    Threads known(threads);
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
            let_go(first, last, WARP_BARRIER, BALLOT);
        }
        let_go(0, threads, BLOCK_BARRIER, BLOCK_BARRIER);
        for (unsigned i = 0; i < threads; ++i) alive = alive || fibers[i].stop != DONE;
        if (!alive) return true;
        if (!progress) return false;
    }
}

template <class T>
constexpr char kind() {
    return std::is_pointer<T>::value ? 'p' : std::is_floating_point<T>::value ? 'f' : std::is_signed<T>::value ? 'i' : 'u';
}

// A kernel's parameters as `EmulatedKernel` checks what they are given: a letter of the kind, and the size in bytes.
template <class... A>
const char* parameters(void (*)(A...)) {
    static char text[3 * sizeof...(A) + 1];
    char* at = text;
    ((*at++ = kind<A>(), *at++ = '0' + sizeof(A), *at++ = ' '), ...);
    *at = 0;
    return text;
}

template <class... A>
UNSEEN int launch(void (*kernel)(A...), unsigned grid, unsigned block, void** arguments, int backwards) {
    std::tuple<A...> values;
    unsigned at = 0;
    std::apply([&](A&... value) { (std::memcpy(&value, arguments[at++], sizeof(A)), ...); }, values);
    auto call = [&] { std::apply(kernel, values); };
    body = [](void* closure) { (*(decltype(call)*)closure)(); };
    body_argument = &call;
    // As many as a thread block may have: more of them later would look like a race with those that have run.
    if (fibers.empty()) std::vector<Fiber>(1024).swap(fibers);
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
    acquire(ended);
    for (auto& stack : past_stacks) free_stacks.push_back(std::move(stack));
    past_stacks.clear();
    return FINE;
}

// A shuffle or a ballot orders no accesses of memory.
UNSEEN inline void wait_at(Stop stop) {
    Fiber& fiber = fibers[current];
    char* barrier = nullptr;
    if (stop == BLOCK_BARRIER) barrier = block_barriers[turn][fiber.block_phase ^= 1];
    if (stop == WARP_BARRIER) barrier = warp_barriers[turn][current / 32][fiber.phase ^= 1];
    fiber.stop = stop;
    if (barrier) release(barrier);
    leave();
    if (barrier) acquire(barrier);
}

// Gives `value` to the warp; afterwards slot(lane) is what each lane gave.
UNSEEN inline void exchange(Stop stop, uint64_t value) {
    Fiber& fiber = fibers[current];
    fiber.phase ^= 1;
    fiber.slots[fiber.phase] = value;
    wait_at(stop);
}

UNSEEN inline uint64_t slot(unsigned lane) {
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
    return __atomic_fetch_add(address, value, __ATOMIC_ACQ_REL);
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
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}
