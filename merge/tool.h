/* The commands of cktool and ckdistill: one file and one row in the program's table each.
 *
 * A command has its table for the command line and a function that does the work; options have been
 * stored where the table says. The function prints its report to standard output; an error comes
 * back as a status and is printed by main.
 */
#ifndef CK_TOOL_H
#define CK_TOOL_H

#include "io/cli.h"
#include "io/reader.h"

#include <cjson/cJSON.h>

typedef struct ck_tool {
    const ck_command *command;
    size_t min_operands, max_operands; /* a maximum below the minimum: any number */
    /* With all operands at once. */
    ck_status (*run)(const char *const *operands, size_t count, ck_error *err);
    /* Or with each of them, being files: a bad one does not keep the others from their turn. object
     * is NULL, or in a JSON report this file's, which has its "path". A report may end badly
     * without an error (NaN in a file): *finding then makes the exit 1. */
    ck_status (*run_file)(const char *path, cJSON *object, bool *finding, ck_error *err);
    const bool *json; /* for run_file: whether the report is to be JSON */
} ck_tool;

extern const ck_tool ck_tool_ls, ck_tool_inspect, ck_tool_hash, ck_tool_verify, ck_tool_diff;
extern const ck_tool ck_tool_split, ck_tool_join, ck_tool_swap_vae, ck_tool_prune, ck_tool_convert;
extern const ck_tool ck_tool_scan, ck_tool_extract_lora, ck_tool_merge_loras;

/* A whole program: finds the command, which are program->commands in the same order, parses, runs
 * and reports. Returns the exit status: 0; 1 for an error or a finding; 2 for wrong usage; 130 when
 * stopped on request. */
int ck_tool_main(const ck_program *program, const ck_tool *const *tools, int argc, char **argv);

/* Prints a JSON document and releases it; NULL, or a document that could not be built (ok false),
 * is CK_MEMORY. */
ck_status ck_tool_print_json(cJSON *json, bool ok, ck_error *err);

/* Appends an empty object to a list; NULL when out of memory. */
cJSON *ck_tool_add_object(cJSON *list);

/* A name for the part of a model that a tensor belongs to, by its prefix: "unet", "vae", "text
 * encoder", "ema", or else the name up to its first dot, to buf. Returns it. */
const char *ck_tool_group(const char *tensor, char *buf, size_t size);

#endif
