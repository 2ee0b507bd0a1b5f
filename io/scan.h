/* What a file would import if Python loaded its pickles, found without loading anything.
 *
 *   ck_scan scan;
 *   CK_TRY(ck_scan_file("m.ckpt", &scan, err));
 *   if (scan.worst == CK_DANGEROUS || scan.problem_count) ... not to be trusted ...
 *   ck_scan_free(&scan);
 *
 * Looked through are: every entry of a zip archive, whatever its name; pickles that follow each
 * other, as in the old PyTorch layout; a pickle up to the place where it breaks, as Python runs it
 * that far. An archive that breaks the rules of zip.h is a problem, and then everything in it that
 * has a zip header is looked through. Other archives (7z, tar, ...) are a problem, too.
 */
#ifndef CK_SCAN_H
#define CK_SCAN_H

#include "io/arena.h"
#include "io/error.h"
#include "io/globals.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ck_scan_import {
    const char *name;   /* "module.name" */
    const char *place;  /* the zip entry, or "" for the file itself */
    uint64_t pickle;    /* which of the pickles there, from 1 */
    const char *opcode; /* "GLOBAL", ... */
    uint64_t offset;    /* within the place, uncompressed */
    ck_verdict verdict;
} ck_scan_import;

typedef struct ck_scan {
    ck_arena arena;
    ck_scan_import *imports; /* in the order in which they were found */
    size_t import_count, import_capacity;
    const char **problems; /* why something could not be looked through; messages with the path */
    size_t problem_count, problem_capacity;
    uint64_t pickles; /* found, whole or broken */
    ck_verdict worst; /* of the imports; CK_HARMLESS if there are none */
} ck_scan;

/* Fails only when the system does. On failure there is nothing to free. */
ck_status ck_scan_file(const char *path, ck_scan *scan, ck_error *err);
void ck_scan_free(ck_scan *scan);

#endif
