/* Work on a vector spread over a small pool of threads, which sleep while there is none. */
#ifndef MPISQUEEZE_THREADS_H
#define MPISQUEEZE_THREADS_H

#include <stdint.h>

#define MAX_THREADS 64
/* Parts a thread, so that one that is held up leaves its share to the others. */
#define PARTS_PER_THREAD 4
#define MAX_PARTS (MAX_THREADS * PARTS_PER_THREAD)
/* Numbers of a vector: fewer in a part are not worth waking a thread for. */
#define SMALLEST_PART (1 << 16)

/* Part `part` of a job: [start, stop) of the range that was spread. */
typedef void spread_work(void *job, int part, int64_t start, int64_t stop);

/* The number of threads that work on one vector from now on, the caller's own included: 1 … MAX_THREADS; and how many
   numbers a part of it has at least. No thread is made for a vector of fewer than PARTS_PER_THREAD such parts. */
void threads_use(int count, int64_t smallest_part);
int threads_in_use(void);

/* Into how many parts a vector of n numbers is worth cutting. */
int threads_parts(int64_t n);

/* Calls work(job, part, …) for `parts` ranges that cover [start, stop), cut at multiples of `unit` behind `start`; empty
   ranges are left out. Returns when all is done. The parts run one after the other on the calling thread where there is
   one thread, where another call has the pool, and inside of another spread. */
void spread(spread_work *work, void *job, int64_t start, int64_t stop, int64_t unit, int parts);

/* To be called once, before anything else here: a forked child starts with an empty pool. */
void threads_init(void);

#endif
