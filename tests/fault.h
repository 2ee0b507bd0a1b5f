/* Fault injection: the N-th call of one kind of system function fails.
 *
 *   for (fault_first(FAULT_PWRITE, ENOSPC); fault_more();) {
 *       fault_arm();                      counting begins
 *       status = operation(...);
 *       fault_disarm();
 *       if (fault_hit()) assert(status != CK_OK ...);
 *       else assert(status == CK_OK);     N has passed the last call: the loop ends
 *   }
 */
#ifndef CK_TESTS_FAULT_H
#define CK_TESTS_FAULT_H

#include <stdbool.h>

typedef enum fault_kind {
    FAULT_CALLOC,
    FAULT_REALLOC,
    FAULT_OPEN,
    FAULT_PREAD,
    FAULT_PWRITE,
    FAULT_FALLOCATE,
    FAULT_FTRUNCATE,
    FAULT_FSYNC,
    FAULT_LINK,
    FAULT_RENAME,
    FAULT_KINDS,
} fault_kind;

const char *fault_name(fault_kind kind);

void fault_first(fault_kind kind, int error);
/* False once a run went through without meeting its fault. */
bool fault_more(void);
void fault_arm(void);
void fault_disarm(void);
/* Whether the fault was met since fault_arm(). */
bool fault_hit(void);

/* From fault_arm() on reads and writes move at most this many bytes at a time; 0: all. Also works
 * without a kind. */
void fault_short_io(unsigned bytes);

#endif
