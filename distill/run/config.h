/* The settings of a training run: a JSON object that a person wrote, settings of the command line
 * over it, and the defaults of whoever asks.
 *
 *   {"steps": 2000, "teacher": "models/base", "method": {"name": "lcm", "rate": 1e-4}}
 *
 *   ck_config *c;
 *   CK_TRY(ck_config_load("lcm.json", sets, set_count, &c, err));        sets: "method.rate=3e-5"
 *   CK_TRY(ck_config_count(c, "steps", 1000, 1, 1e9, &steps, err));
 *   CK_TRY(ck_config_number(c, "method.rate", 1e-4, 0, 1, &rate, err));
 *   CK_TRY(ck_config_check(c, err));               everything was asked for: refuse what was not
 *   char *text = ck_config_print(c);               what is used, defaults included
 *   ck_config_free(c);
 *
 * A key is a path of field names with dots between them. What a key gives is what its setting on
 * the command line says; else the file; else the default; null is like absent. Every value that is
 * given out is noted, so that print writes a config that means the same run, and check finds the
 * keys that nobody knows. Who asks for a key again asks for the same type and default.
 *
 * Errors are CK_INPUT and name file, line and key, or the setting: "--set method.rate: must be a
 * number". Texts and lists belong to the config; those of a default, to the caller.
 */
#ifndef CK_CONFIG_H
#define CK_CONFIG_H

#include "io/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ck_config ck_config;

/* sets: "KEY=VALUE", where VALUE is JSON or, when it is not, a text without quotes. Objects go over
 * the file's field by field, everything else replaces. CK_USAGE: a setting that is none. */
ck_status ck_config_load(const char *path, const char *const *sets, size_t count, ck_config **c,
                         ck_error *err);
void ck_config_free(ck_config *c); /* NULL is allowed */

/* The part of a config under a key, whose keys begin there: a method asks for "rate" and needs not
 * know where it stands. Where there is no such object, it gives defaults. It belongs to c; check
 * and print are for the whole. */
ck_status ck_config_object(ck_config *c, const char *key, ck_config **part, ck_error *err);

/* Whether the file or the command line has it (and not as null). */
bool ck_config_has(const ck_config *c, const char *key);
/* Whether it has it as a list: for what may be a list or the path of a file. */
bool ck_config_has_list(const ck_config *c, const char *key);

/* least <= *value <= most; INFINITY for no bound. The default may be outside (0 for "off"). */
ck_status ck_config_number(ck_config *c, const char *key, double fallback, double least,
                           double most, double *value, ck_error *err);
/* A whole number below 2^53. */
ck_status ck_config_count(ck_config *c, const char *key, uint64_t fallback, uint64_t least,
                          uint64_t most, uint64_t *value, ck_error *err);
ck_status ck_config_bool(ck_config *c, const char *key, bool fallback, bool *value, ck_error *err);
/* A fallback of NULL gives NULL. */
ck_status ck_config_text(ck_config *c, const char *key, const char *fallback, const char **value,
                         ck_error *err);
/* What a text that was given out has come to mean, such as "auto": print says this. */
ck_status ck_config_decide(ck_config *c, const char *key, const char *value, ck_error *err);
/* A text that is one of the words in "a|b|c"; *value is its place among them. */
ck_status ck_config_choice(ck_config *c, const char *key, const char *words, size_t fallback,
                           size_t *value, ck_error *err);
/* A path, absolute: one in the file is relative to the file's folder, one on the command line to
 * the current folder. NULL where there is none. */
ck_status ck_config_path(ck_config *c, const char *key, const char **value, ck_error *err);
/* Lists of any length, also 0; fallback has fallback_count items. */
ck_status ck_config_numbers(ck_config *c, const char *key, const double *fallback,
                            size_t fallback_count, double least, double most, const double **values,
                            size_t *count, ck_error *err);
ck_status ck_config_texts(ck_config *c, const char *key, const char *const *fallback,
                          size_t fallback_count, const char *const **values, size_t *count,
                          ck_error *err);

/* CK_INPUT about a key, for what types and ranges do not say: "FILE:3: $.teacher: message". */
ck_status ck_config_fail(const ck_config *c, const char *key, ck_error *err, const char *format,
                         ...) __attribute__((format(printf, 4, 5)));

/* After the last question: a key that nobody asked for is CK_INPUT, with the nearest that somebody
 * did. */
ck_status ck_config_check(const ck_config *c, ck_error *err);

/* The values that were given out, as JSON text with a line break at its end, to be released with
 * free(); NULL when out of memory. Loading it gives the same values. */
char *ck_config_print(const ck_config *c);

#endif
