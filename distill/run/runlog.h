/* The log of a run: RUN/log.jsonl, a JSON object a line, for people, plots and the report.
 *
 *   {"step":100,"time":1764000000.25,"loss":0.12,"grad_norm":0.8,"lr":0.0001,...}
 *   {"step":100,"time":1764000000.5,"event":"saved","text":"checkpoints/100"}
 *
 *   ck_runlog *log;
 *   CK_TRY(ck_runlog_open("RUN/log.jsonl", 0, &log, err));
 *   ck_log_value values[] = {{"loss", loss}, {"grad_norm", norm}, {"lr", lr}};
 *   CK_TRY(ck_runlog_append(log, &(ck_log_record){.step = 100, .values = values, .count = 3},
 * err)); CK_TRY(ck_runlog_append(log, &(ck_log_record){.step = 100, .event = "saved"}, err));
 *   ck_runlog_close(log);
 *
 * Names of values: loss, grad_norm, lr, samples_per_s, memory (bytes that the process has), and
 * what else a method has to tell. Events: started, resumed, changed (what it is computed by),
 * saved, evaluated, nan, spike, rollback, stopped, finished.
 *
 * A line is written at once, at the end of the file. Those of events are on the disk when append
 * returns, and with them all before; a power cut can cost only steps since the last event, which
 * are done again from the checkpoint anyway.
 */
#ifndef CK_RUNLOG_H
#define CK_RUNLOG_H

#include "io/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ck_log_value {
    const char *name;
    double value; /* what is not finite is null in the file, and comes back as NaN */
} ck_log_value;

typedef struct ck_log_record {
    uint64_t step;     /* steps done; below 10^15 */
    double time;       /* seconds since 1970; append: 0 is now */
    const char *event; /* NULL: the values of a step */
    const char *text;  /* of the event, for people; may be NULL */
    const ck_log_value *values;
    size_t count;
} ck_log_record;

typedef struct ck_runlog ck_runlog;

/* Goes on with a log after a step, or begins one where there is no file. The values of later steps
 * are taken out: they will be done again. Events stay, whatever their step: they happened. Lines
 * that cannot be read (after a crash) are taken out too, and an event "damaged" says how many. */
ck_status ck_runlog_open(const char *path, uint64_t step, ck_runlog **log, ck_error *err);
void ck_runlog_close(ck_runlog *log); /* NULL is allowed */

/* Adds a line, or nothing where it cannot be written. CK_IO also when an event's line is written
 * but not known to be on the disk. */
ck_status ck_runlog_append(ck_runlog *log, const ck_log_record *record, ck_error *err);

/* Calls visit with every record in the order of the file; what the record points to is gone after
 * the call. A last line without an end is being written, and left out. *damaged: how many lines
 * could not be read. Stops with the status of visit when that is not CK_OK. */
ck_status ck_runlog_read(const char *path,
                         ck_status (*visit)(void *context, const ck_log_record *record,
                                            ck_error *err),
                         void *context, size_t *damaged, ck_error *err);

#endif
