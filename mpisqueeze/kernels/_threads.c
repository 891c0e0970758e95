#define _POSIX_C_SOURCE 200809L
#include "_threads.h"

/* The range of one part; parts differ by at most one unit. */
static void run_part(spread_work *work, void *job, int part, int64_t start, int64_t stop, int64_t unit, int parts) {
    int64_t units = (stop - start + unit - 1) / unit, each = units / parts, more = units % parts;
    int64_t first = start + unit * (part * each + (part < more ? part : more));
    int64_t last = first + unit * (each + (part < more));
    if (last > stop)
        last = stop;
    if (first < last)
        work(job, part, first, last);
}

static void run_serially(spread_work *work, void *job, int64_t start, int64_t stop, int64_t unit, int parts) {
    for (int part = 0; part < parts; part++)
        run_part(work, job, part, start, stop, unit, parts);
}

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

/* Looks for work, or for its end, before a thread sleeps: some microseconds. */
#define LOOKS 500

static struct {
    /* Held by the thread whose spread it is. */
    pthread_mutex_t busy;
    /* Held for a moment by whoever reads or writes what follows. */
    pthread_mutex_t lock;
    pthread_cond_t wake, finished;
    spread_work *work;
    void *job;
    int64_t start, stop, unit;
    /* Parts [0, next) have been taken, and `pending` are not done yet. */
    int parts, next, pending;
    /* Workers [0, started) exist; [0, welcome) of them take part. */
    int started, welcome;
    /* These change under the lock, and are read without it only to know when to look. */
    atomic_uint spreads;
    atomic_int unfinished;
} pool;
static atomic_int threads = 1;
static _Atomic int64_t smallest_part = SMALLEST_PART;

static void pause_a_moment(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Takes parts until there are none left; the lock is held before and after. */
static void take_parts(void) {
    while (pool.next < pool.parts) {
        int part = pool.next++;
        pthread_mutex_unlock(&pool.lock);
        /* These fields do not change before the spread's last part is done. */
        run_part(pool.work, pool.job, part, pool.start, pool.stop, pool.unit, pool.parts);
        pthread_mutex_lock(&pool.lock);
        if (--pool.pending == 0) {
            atomic_store(&pool.unfinished, 0);
            pthread_cond_signal(&pool.finished);
        }
    }
}

static void *worker(void *argument) {
    const int index = (int)(intptr_t)argument;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        if (index < pool.welcome)
            take_parts();
        unsigned seen = atomic_load(&pool.spreads);
        pthread_mutex_unlock(&pool.lock);
        for (int look = 0; look < LOOKS && atomic_load(&pool.spreads) == seen; look++)
            pause_a_moment();
        pthread_mutex_lock(&pool.lock);
        while (atomic_load(&pool.spreads) == seen)
            pthread_cond_wait(&pool.wake, &pool.lock);
    }
    return NULL;
}

/* Starts workers until there are `count`, or as many as the system grants. The lock is held. */
static void start_workers(int count) {
    pthread_attr_t attributes;
    sigset_t all, before;
    if (pool.started >= count || pthread_attr_init(&attributes))
        return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 1 << 20);
    /* Signals are left to Python's main thread, which they should interrupt. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    while (pool.started < count &&
           !pthread_create(&thread, &attributes, worker, (void *)(intptr_t)pool.started))
        pool.started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

void spread(spread_work *work, void *job, int64_t start, int64_t stop, int64_t unit, int parts) {
    const int workers = threads_in_use() - 1;
    if (parts <= 1 || workers < 1 || pthread_mutex_trylock(&pool.busy)) {
        run_serially(work, job, start, stop, unit, parts);
        return;
    }
    pthread_mutex_lock(&pool.lock);
    start_workers(workers);
    pool.work = work, pool.job = job;
    pool.start = start, pool.stop = stop, pool.unit = unit;
    pool.parts = pool.pending = parts, pool.next = 0;
    pool.welcome = workers;
    atomic_store(&pool.unfinished, 1);
    atomic_fetch_add(&pool.spreads, 1);
    pthread_cond_broadcast(&pool.wake);
    take_parts();
    pthread_mutex_unlock(&pool.lock);
    for (int look = 0; look < LOOKS && atomic_load(&pool.unfinished); look++)
        pause_a_moment();
    pthread_mutex_lock(&pool.lock);
    while (pool.pending)
        pthread_cond_wait(&pool.finished, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&pool.busy);
}

void threads_use(int count, int64_t part) {
    atomic_store(&threads, count);
    atomic_store(&smallest_part, part);
}

int threads_in_use(void) { return atomic_load(&threads); }

int threads_parts(int64_t n) {
    const int64_t count = threads_in_use(), most = count * PARTS_PER_THREAD, worth = n / atomic_load(&smallest_part);
    return count == 1 || worth < PARTS_PER_THREAD ? 1 : (int)(worth < most ? worth : most);
}

/* A child has only the thread that forked; other threads' locks would stay locked in it for ever. */
static void empty_the_pool(void) {
    pthread_mutex_init(&pool.busy, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pthread_cond_init(&pool.finished, NULL);
    pool.parts = pool.next = pool.pending = pool.started = 0;
}

void threads_init(void) {
    empty_the_pool();
    pthread_atfork(NULL, NULL, empty_the_pool);
}

#else

void spread(spread_work *work, void *job, int64_t start, int64_t stop, int64_t unit, int parts) {
    run_serially(work, job, start, stop, unit, parts);
}

void threads_use(int count, int64_t part) { (void)count, (void)part; }

int threads_in_use(void) { return 1; }

int threads_parts(int64_t n) { return (void)n, 1; }

void threads_init(void) {}

#endif
