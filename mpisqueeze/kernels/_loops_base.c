/* The loops for any machine. */
#define LEVEL 0
#define LOOPS loops_base
#include "_loops_tables.h"
