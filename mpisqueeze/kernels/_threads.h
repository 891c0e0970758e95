/* A small pool of threads that share the work on a vector and sleep otherwise. */
#ifndef MPISQUEEZE_THREADS_H
#define MPISQUEEZE_THREADS_H

#include <stdint.h>

#define MAX_THREADS 64
/* Parts per thread, so that a delayed thread leaves part of its share to the others. */
#define PARTS_PER_THREAD 4
#define MAX_PARTS (MAX_THREADS * PARTS_PER_THREAD)
/* Elements: a smaller part is not worth waking a thread for. */
#define SMALLEST_PART (1 << 16)

/* Part `part` of a job: [start, stop) of the range that was spread. */
typedef void spread_work(void *job, int part, int64_t start, int64_t stop);

/* Sets the number of threads that work on one vector, the caller's included (1 … MAX_THREADS), and the fewest elements
   in a part. A vector of fewer than PARTS_PER_THREAD such parts gets no thread. */
void threads_use(int count, int64_t smallest_part);
int threads_in_use(void);

/* The number of parts that a vector of n elements is cut into. */
int threads_parts(int64_t n);

/* Calls work(job, part, …) for `parts` ranges that cover [start, stop), cut at multiples of `unit` behind `start`; empty
   ranges are left out. Returns when all parts are done. They run one after the other on the calling thread if there is
   only one thread, if another call uses the pool, and inside another spread. */
void spread(spread_work *work, void *job, int64_t start, int64_t stop, int64_t unit, int parts);

/* Must be called once, before the other functions; a forked child starts with an empty pool. */
void threads_init(void);

#endif
