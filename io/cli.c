/* Parsing of command lines from a table of options; help and other texts are in cli_docs.c. */
#include "io/cli.h"
#include "io/os.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Edits (insert, delete, replace) that turn a into b; words are short. */
static size_t distance(const char *a, const char *b) {
    enum { LONGEST = 63 };
    size_t n = strlen(a), m = strlen(b), row[LONGEST + 1];
    if (n > LONGEST || m > LONGEST) return SIZE_MAX;
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t replace = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            size_t insert = row[j - 1] + 1, erase = row[j] + 1;
            row[j] = replace < insert ? replace : insert;
            if (erase < row[j]) row[j] = erase;
        }
    }
    return row[m];
}

const char *ck_cli_nearest(const char *word, const char *const *words, size_t count) {
    const char *best = NULL;
    /* A third of the letters may be wrong; more is no resemblance. */
    size_t limit = strlen(word) / 3 + 1;
    for (size_t i = 0; i < count; i++) {
        size_t d = distance(word, words[i]);
        if (d <= limit) {
            best = words[i];
            limit = d ? d - 1 : 0;
            if (d == 0) break;
        }
    }
    return best;
}

static const ck_option *find_long(const ck_command *c, const char *name, size_t n) {
    for (const ck_option *o = c->options; o->name; o++)
        if (strlen(o->name) == n && memcmp(o->name, name, n) == 0) return o;
    return NULL;
}

static const ck_option *find_short(const ck_command *c, char letter) {
    for (const ck_option *o = c->options; o->name; o++)
        if (o->letter == letter) return o;
    return NULL;
}

static ck_status unknown(const ck_command *c, const char *argument, const char *name, size_t n,
                         ck_error *err) {
    const char *names[128];
    size_t count = 0;
    for (const ck_option *o = c->options; o->name && count < 128; o++) names[count++] = o->name;
    char word[64];
    snprintf(word, sizeof word, "%.*s", (int)n, name);
    const char *near = ck_cli_nearest(word, names, count);
    if (near)
        return ck_fail(err, CK_USAGE, "unknown option %s; did you mean --%s?", argument, near);
    return ck_fail(err, CK_USAGE, "unknown option %s; see `%s --help`", argument, c->name);
}

static bool is_choice(const char *choices, const char *word) {
    size_t n = strlen(word);
    for (const char *p = choices; *p;) {
        size_t len = strcspn(p, "|");
        if (len == n && memcmp(p, word, n) == 0) return true;
        p += len + (p[len] == '|');
    }
    return false;
}

static ck_status store(const ck_option *o, const char *argument, ck_error *err) {
    char *end;
    if (o->given) *o->given = true;
    switch (o->type) {
    case CK_OPT_FLAG:
        *(bool *)o->value = true;
        return CK_OK;
    case CK_OPT_TEXT:
        *(const char **)o->value = argument;
        return CK_OK;
    case CK_OPT_CHOICE:
        if (!is_choice(o->choices, argument))
            return ck_fail(err, CK_USAGE, "--%s %s: must be one of %s", o->name, argument,
                           o->choices);
        *(const char **)o->value = argument;
        return CK_OK;
    case CK_OPT_NUMBER: {
        double number = strtod(argument, &end);
        if (end == argument || *end || !isfinite(number))
            return ck_fail(err, CK_USAGE, "--%s %s: must be a number", o->name, argument);
        *(double *)o->value = number;
        return CK_OK;
    }
    case CK_OPT_COUNT: {
        errno = 0;
        unsigned long long number = strtoull(argument, &end, 10);
        if (*argument < '0' || *argument > '9' || *end || errno)
            return ck_fail(err, CK_USAGE, "--%s %s: must be a whole number", o->name, argument);
        *(uint64_t *)o->value = number;
        return CK_OK;
    }
    case CK_OPT_LIST: {
        ck_text_list *list = o->value;
        const char **items = ck_grow(list->items, list->count, &list->capacity, sizeof *items);
        if (!items) return ck_fail_memory(err, o->name);
        list->items = items;
        items[list->count++] = argument;
        return CK_OK;
    }
    }
    return CK_OK;
}

/* Where parsing is; argv[at] is looked at next. */
typedef struct parsing {
    const ck_command *command;
    int argc, at;
    char **argv;
} parsing;

static ck_status take_argument(parsing *p, const ck_option *o, const char *attached,
                               ck_error *err) {
    if (attached) return store(o, attached, err);
    if (p->at >= p->argc) return ck_fail(err, CK_USAGE, "--%s needs %s", o->name, o->argument);
    return store(o, p->argv[p->at++], err);
}

static ck_status parse_long(parsing *p, const char *argument, ck_error *err) {
    const char *name = argument + 2, *equals = strchr(name, '=');
    size_t n = equals ? (size_t)(equals - name) : strlen(name);
    const ck_option *o = find_long(p->command, name, n);
    if (!o) return unknown(p->command, argument, name, n, err);
    if (o->type != CK_OPT_FLAG) return take_argument(p, o, equals ? equals + 1 : NULL, err);
    if (equals) return ck_fail(err, CK_USAGE, "--%s takes no value", o->name);
    return store(o, NULL, err);
}

/* "-f", "-fq", "-oFILE", "-o FILE" */
static ck_status parse_short(parsing *p, const char *argument, ck_error *err) {
    for (const char *letter = argument + 1; *letter; letter++) {
        const ck_option *o = find_short(p->command, *letter);
        if (!o) return unknown(p->command, argument, letter, 1, err);
        if (o->type != CK_OPT_FLAG) return take_argument(p, o, letter[1] ? letter + 1 : NULL, err);
        CK_TRY(store(o, NULL, err));
    }
    return CK_OK;
}

/* A negative number is an operand, not options. */
static bool is_number(const char *argument) {
    char *end;
    strtod(argument, &end);
    return end != argument && !*end;
}

ck_status ck_cli_parse(const ck_command *command, int argc, char **argv, const char ***operands,
                       size_t *count, ck_error *err) {
    parsing p = {.command = command, .argc = argc, .at = 1, .argv = argv};
    const char **words = ck_alloc_array((size_t)argc + 1, sizeof *words);
    if (!words) return ck_fail_memory(err, command->name);
    size_t n = 0;
    bool options = true;
    ck_status status = CK_OK;
    while (p.at < argc && status == CK_OK) {
        const char *argument = argv[p.at++];
        if (options && strcmp(argument, "--") == 0)
            options = false;
        else if (options && argument[0] == '-' && argument[1] == '-')
            status = parse_long(&p, argument, err);
        else if (options && argument[0] == '-' && argument[1] && !is_number(argument))
            status = parse_short(&p, argument, err);
        else
            words[n++] = argument;
    }
    if (status != CK_OK) {
        free(words);
        return status;
    }
    *operands = words;
    *count = n;
    return CK_OK;
}
