/* Command lines from one table: parsing, --help, man page and shell completion all come from it.
 *
 *   static const ck_option options[] = {
 *       {"alpha", 'a', "A", "share of the second model (default 0.5)", CK_OPT_NUMBER, &alpha},
 *       {"force", 'f', NULL, "replace an existing output", CK_OPT_FLAG, &force},
 *       {0}};
 *   static const ck_command command = {.name = "ckmerge", .options = options, ...};
 *   CK_TRY(ck_cli_parse(&command, argc, argv, &operands, &operand_count, err));
 *
 * Long options take "--name value" and "--name=value"; short ones "-o value" and "-ovalue". Options
 * and operands may be mixed; "--" ends the options; a lone "-" and negative numbers are operands.
 * An unknown option is CK_USAGE with the nearest known name in the message.
 */
#ifndef CK_CLI_H
#define CK_CLI_H

#include "io/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

typedef enum ck_option_type {
    CK_OPT_FLAG,   /* bool *: set to true */
    CK_OPT_TEXT,   /* const char **: the argument, not copied */
    CK_OPT_NUMBER, /* double *: finite, the whole argument */
    CK_OPT_COUNT,  /* uint64_t *: plain decimal */
    CK_OPT_CHOICE, /* const char **: one of the words in .choices, "a|b|c" */
    CK_OPT_LIST,   /* ck_text_list *: every occurrence, in order */
} ck_option_type;

typedef struct ck_text_list {
    const char **items; /* grown by the parser; release with free() */
    size_t count, capacity;
} ck_text_list;

typedef struct ck_option {
    const char *name;     /* long, without dashes */
    char letter;          /* short, or 0 */
    const char *argument; /* its name in help, "FILE"; NULL for a flag */
    const char *help;     /* a phrase; lines are wrapped for the reader */
    ck_option_type type;
    void *value;
    const char *choices; /* for CK_OPT_CHOICE */
    bool *given;         /* set when the option occurs; may be NULL */
} ck_option;

typedef struct ck_command {
    const char *name;         /* "ckmerge", or "cktool ls" */
    const char *summary;      /* one line */
    const char *synopsis;     /* usage lines, separated by '\n', without the name */
    const char *details;      /* paragraphs for help and man page, or NULL */
    const ck_option *options; /* ends with a zeroed row */
    const char *examples;     /* lines "$ command" and "  what it does", or NULL */
    bool files;               /* operands are files: completion offers them */
} ck_command;

/* A program of several commands ("cktool") or of one (command_count 1, command names the program).
 */
typedef struct ck_program {
    const char *name, *summary, *version;
    const ck_command *const *commands;
    size_t command_count;
    const char *exit_status; /* text of that section in help and man page */
} ck_program;

/* What every program understands before anything else: --help (-h), --version (-V), --man and
 * --completion SHELL. True when argv[1] was one of them and has been answered on `out`; main then
 * returns 0. command: whose help is meant, or NULL for the whole program's. */
bool ck_cli_standard(const ck_program *program, const ck_command *command, int argc, char **argv,
                     FILE *out);

/* Parses argv[1..]; *operands (of *count) is released with free(), its items belong to argv. */
ck_status ck_cli_parse(const ck_command *command, int argc, char **argv, const char ***operands,
                       size_t *count, ck_error *err);

/* --help of one command, of a program, its man page (roff) and completion script. shell: "bash",
 * "zsh" or "fish"; false for any other. */
void ck_cli_help(const ck_command *command, const ck_program *program, FILE *out);
void ck_cli_program_help(const ck_program *program, FILE *out);
void ck_cli_man(const ck_program *program, FILE *out);
bool ck_cli_completion(const ck_program *program, const char *shell, FILE *out);

/* Prints a text wrapped to the width of the terminal, all lines but the first indented; '\n' ends a
 * paragraph. The cursor stands at column `indent`. */
void ck_cli_wrap(FILE *out, const char *text, int indent);

/* The word of the list (count words) nearest to word by edit distance, or NULL if none is near. */
const char *ck_cli_nearest(const char *word, const char *const *words, size_t count);

/* Whether to colour what goes to this stream: a terminal, NO_COLOR unset, TERM not "dumb". */
bool ck_cli_color(FILE *stream);

#endif
