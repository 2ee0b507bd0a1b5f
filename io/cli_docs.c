/* Help, man page and shell completion, all made from the tables of cli.h. */
#include "io/cli.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

bool ck_cli_color(FILE *stream) {
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(fileno(stream)) && !(no_color && *no_color) && term && strcmp(term, "dumb") != 0;
}

static int text_width(FILE *out) {
    const char *columns = getenv("COLUMNS");
    struct winsize size;
    int width = 80;
    if (columns && atoi(columns) > 0)
        width = atoi(columns);
    else if (isatty(fileno(out)) && ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col)
        width = size.ws_col;
    return width > 100 ? 100 : width < 40 ? 40 : width;
}

/* ---- Help ---- */

static void heading(FILE *out, const char *title) {
    bool color = ck_cli_color(out);
    fprintf(out, "\n%s%s%s\n", color ? "\x1b[1m" : "", title, color ? "\x1b[0m" : "");
}

/* (at: the column where the cursor stands.) */
static void wrap(FILE *out, const char *text, int at, int indent, int width) {
    while (*text) {
        if (*text == '\n' || *text == ' ') {
            if (*text++ == '\n') {
                fprintf(out, "\n%*s", indent, "");
                at = indent;
            }
            continue;
        }
        int word = (int)strcspn(text, " \n");
        if (at > indent && at + 1 + word > width) {
            fprintf(out, "\n%*s", indent, "");
            at = indent;
        } else if (at > indent) {
            fputc(' ', out);
            at++;
        }
        fprintf(out, "%.*s", word, text);
        at += word;
        text += word;
    }
    fputc('\n', out);
}

void ck_cli_wrap(FILE *out, const char *text, int indent) {
    wrap(out, text, indent, indent, text_width(out));
}

static void print_option(FILE *out, char letter, const char *name, const char *argument,
                         const char *help, int width) {
    enum { COLUMN = 26 };
    char left[128];
    snprintf(left, sizeof left, "  %c%c%s--%s%s%s", letter ? '-' : ' ', letter ? letter : ' ',
             letter ? ", " : "  ", name, argument ? " " : "", argument ? argument : "");
    fputs(left, out);
    int at = (int)strlen(left);
    if (at > COLUMN - 2) {
        fputc('\n', out);
        at = 0;
    }
    fprintf(out, "%*s", COLUMN - at, "");
    wrap(out, help, COLUMN, COLUMN, width);
}

/* Calls `each` for every line of a text. */
static void for_lines(const char *text, void (*each)(FILE *, const char *, int), FILE *out) {
    while (text && *text) {
        int n = (int)strcspn(text, "\n");
        each(out, text, n);
        text += n + (text[n] == '\n');
    }
}

static void indented_line(FILE *out, const char *line, int n) {
    fprintf(out, "  %.*s\n", n, line);
}

static void print_usage(const ck_command *c, FILE *out) {
    const char *line = c->synopsis;
    for (const char *lead = "usage:"; *line; lead = "      ") {
        int n = (int)strcspn(line, "\n");
        fprintf(out, "%s %s %.*s\n", lead, c->name, n, line);
        line += n + (line[n] == '\n');
    }
}

static void print_standard_options(FILE *out, int width) {
    print_option(out, 'h', "help", NULL, "show this help", width);
    print_option(out, 'V', "version", NULL, "show the version", width);
    print_option(out, 0, "completion", "SHELL", "print the completion script for bash, zsh or fish",
                 width);
    print_option(out, 0, "man", NULL, "print the manual page (view it with `man -l -`)", width);
}

void ck_cli_help(const ck_command *c, const ck_program *program, FILE *out) {
    int width = text_width(out);
    fprintf(out, "%s: %s\n", c->name, c->summary);
    fputc('\n', out);
    print_usage(c, out);
    if (c->details) {
        fputc('\n', out);
        wrap(out, c->details, 0, 0, width);
    }
    heading(out, "Options");
    for (const ck_option *o = c->options; o->name; o++)
        print_option(out, o->letter, o->name, o->argument, o->help, width);
    if (program->command_count == 1)
        print_standard_options(out, width);
    else
        print_option(out, 'h', "help", NULL, "show this help", width);
    if (c->examples) {
        heading(out, "Examples");
        for_lines(c->examples, indented_line, out);
    }
    if (program->exit_status) {
        heading(out, "Exit status");
        fputs("  ", out);
        wrap(out, program->exit_status, 2, 2, width);
    }
}

void ck_cli_program_help(const ck_program *p, FILE *out) {
    int width = text_width(out);
    fprintf(out, "%s: %s\n\nusage: %s COMMAND ...\n", p->name, p->summary, p->name);
    heading(out, "Commands");
    for (size_t i = 0; i < p->command_count; i++) {
        /* Commands are named "program word". */
        const char *word = p->commands[i]->name + strlen(p->name) + 1;
        fprintf(out, "  %-12s ", word);
        wrap(out, p->commands[i]->summary, 15, 15, width);
    }
    heading(out, "Options");
    print_standard_options(out, width);
    fprintf(out, "\n`%s COMMAND --help` explains a command.\n", p->name);
    if (p->exit_status) {
        heading(out, "Exit status");
        fputs("  ", out);
        wrap(out, p->exit_status, 2, 2, width);
    }
}

/* ---- Man page ---- */

/* Text as roff wants it: backslashes and dashes escaped, no line that starts with a control
 * character. '\n' starts a paragraph. */
static void roff(FILE *out, const char *text, size_t n) {
    bool line_start = true;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (line_start && (c == '.' || c == '\'')) fputs("\\&", out);
        line_start = false;
        if (c == '\\')
            fputs("\\e", out);
        else if (c == '-')
            fputs("\\-", out);
        else if (c == '\n')
            fputs("\n.PP\n", out), line_start = true;
        else
            fputc(c, out);
    }
    fputc('\n', out);
}

static void roff_text(FILE *out, const char *text) {
    roff(out, text, strlen(text));
}

static void roff_example(FILE *out, const char *line, int n) {
    roff(out, line, (size_t)n);
}

static void man_option(FILE *out, char letter, const char *name, const char *argument,
                       const char *help) {
    fputs(".TP\n", out);
    if (letter) fprintf(out, "\\fB\\-%c\\fR, ", letter);
    fputs("\\fB\\-\\-", out);
    for (const char *p = name; *p; p++) fputs(*p == '-' ? "\\-" : (char[]){*p, 0}, out);
    fputs("\\fR", out);
    if (argument) fprintf(out, " \\fI%s\\fR", argument);
    fputc('\n', out);
    roff_text(out, help);
}

static void man_synopsis(const ck_command *c, FILE *out) {
    for (const char *line = c->synopsis; *line;) {
        size_t n = strcspn(line, "\n");
        fputs(".br\n", out);
        fprintf(out, ".B %s\n", c->name);
        if (n) roff(out, line, n);
        line += n + (line[n] == '\n');
    }
}

static void man_options(const ck_command *c, FILE *out) {
    for (const ck_option *o = c->options; o->name; o++)
        man_option(out, o->letter, o->name, o->argument, o->help);
}

void ck_cli_man(const ck_program *p, FILE *out) {
    fprintf(out, ".TH \"%s\" 1 \"\" \"%s %s\"\n.SH NAME\n%s \\- %s\n.SH SYNOPSIS\n", p->name,
            p->name, p->version, p->name, p->summary);
    for (size_t i = 0; i < p->command_count; i++) man_synopsis(p->commands[i], out);
    fputs(".SH DESCRIPTION\n", out);
    if (p->command_count == 1) {
        roff_text(out, p->commands[0]->details ? p->commands[0]->details : p->summary);
        fputs(".SH OPTIONS\n", out);
        man_options(p->commands[0], out);
    } else {
        roff_text(out, p->summary);
        fputs(".SH COMMANDS\n", out);
        for (size_t i = 0; i < p->command_count; i++) {
            fprintf(out, ".SS %s\n", p->commands[i]->name);
            roff_text(out, p->commands[i]->summary);
            if (p->commands[i]->details) {
                fputs(".PP\n", out);
                roff_text(out, p->commands[i]->details);
            }
            man_options(p->commands[i], out);
        }
        fputs(".SH OPTIONS\n", out);
    }
    man_option(out, 'h', "help", NULL, "show help");
    man_option(out, 'V', "version", NULL, "show the version");
    man_option(out, 0, "completion", "SHELL", "print the completion script for bash, zsh or fish");
    man_option(out, 0, "man", NULL, "print this page");
    if (p->exit_status) {
        fputs(".SH \"EXIT STATUS\"\n", out);
        roff_text(out, p->exit_status);
    }
    fputs(".SH EXAMPLES\n", out);
    for (size_t i = 0; i < p->command_count; i++) {
        if (!p->commands[i]->examples) continue;
        fputs(".nf\n", out);
        for_lines(p->commands[i]->examples, roff_example, out);
        fputs(".fi\n", out);
    }
}

/* ---- Completion ---- */

static const char *const standard_words = "--help --version --completion --man";

static const char *command_word(const ck_program *p, size_t i) {
    return p->command_count == 1 ? NULL : p->commands[i]->name + strlen(p->name) + 1;
}

/* "a|b|c" as "a b c". */
static void spaced(FILE *out, const char *choices) {
    for (; *choices; choices++) fputc(*choices == '|' ? ' ' : *choices, out);
}

static void bash_command(const ck_command *c, FILE *out) {
    fputs("    case \"$prev\" in\n", out);
    for (const ck_option *o = c->options; o->name; o++) {
        if (o->type == CK_OPT_FLAG) continue;
        fprintf(out, "    --%s", o->name);
        if (o->letter) fprintf(out, "|-%c", o->letter);
        if (o->type == CK_OPT_CHOICE) {
            fputs(") COMPREPLY=($(compgen -W '", out);
            spaced(out, o->choices);
            fputs("' -- \"$cur\")); return ;;\n", out);
        } else {
            bool file = o->argument && strstr(o->argument, "FILE");
            fprintf(out, ") %sreturn ;;\n", file ? "COMPREPLY=($(compgen -f -- \"$cur\")); " : "");
        }
    }
    fputs("    esac\n    if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W '", out);
    for (const ck_option *o = c->options; o->name; o++) fprintf(out, "--%s ", o->name);
    fprintf(out, "%s' -- \"$cur\")); return; fi\n", standard_words);
    if (c->files) fputs("    COMPREPLY=($(compgen -f -- \"$cur\"))\n", out);
}

static void bash(const ck_program *p, FILE *out) {
    fprintf(out,
            "_%s() {\n    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
            "    compopt -o filenames 2>/dev/null\n",
            p->name);
    if (p->command_count > 1) {
        fputs("    if [[ $COMP_CWORD == 1 ]]; then COMPREPLY=($(compgen -W '", out);
        for (size_t i = 0; i < p->command_count; i++) fprintf(out, "%s ", command_word(p, i));
        fprintf(out, "%s' -- \"$cur\")); return; fi\n    case ${COMP_WORDS[1]} in\n",
                standard_words);
        for (size_t i = 0; i < p->command_count; i++) {
            fprintf(out, "    %s)\n", command_word(p, i));
            bash_command(p->commands[i], out);
            fputs("    ;;\n", out);
        }
        fputs("    esac\n", out);
    } else {
        bash_command(p->commands[0], out);
    }
    fprintf(out, "}\ncomplete -F _%s %s\n", p->name, p->name);
}

/* Text in single quotes for zsh and fish, without what their formats treat specially. */
static void quoted(FILE *out, const char *text) {
    for (; *text; text++)
        if (!strchr("'[]:\\\n", *text)) fputc(*text, out);
}

static void zsh_options(const ck_command *c, FILE *out) {
    fputs("    _arguments -s", out);
    for (const ck_option *o = c->options; o->name; o++) {
        fprintf(out, " \\\n      '%s--%s", o->type == CK_OPT_LIST ? "*" : "", o->name);
        fputs(o->type == CK_OPT_FLAG ? "[" : "=[", out);
        quoted(out, o->help);
        fputs("]", out);
        if (o->type == CK_OPT_CHOICE) {
            fprintf(out, ":%s:(", o->name);
            spaced(out, o->choices);
            fputs(")", out);
        } else if (o->type != CK_OPT_FLAG) {
            bool file = o->argument && strstr(o->argument, "FILE");
            fprintf(out, ":%s:%s", o->name, file ? "_files" : "");
        }
        fputs("'", out);
    }
    fprintf(out, "%s\n", c->files ? " \\\n      '*:file:_files'" : "");
}

static void zsh(const ck_program *p, FILE *out) {
    fprintf(out, "#compdef %s\n_%s() {\n", p->name, p->name);
    if (p->command_count > 1) {
        fputs("    if (( CURRENT == 2 )); then\n      compadd", out);
        for (size_t i = 0; i < p->command_count; i++) fprintf(out, " %s", command_word(p, i));
        fputs("\n      return\n    fi\n    local word=$words[2]\n    shift words; (( CURRENT-- ))\n"
              "    case $word in\n",
              out);
        for (size_t i = 0; i < p->command_count; i++) {
            fprintf(out, "    %s)\n", command_word(p, i));
            zsh_options(p->commands[i], out);
            fputs("    ;;\n", out);
        }
        fputs("    esac\n", out);
    } else {
        zsh_options(p->commands[0], out);
    }
    fprintf(out, "}\n_%s \"$@\"\n", p->name);
}

static void fish(const ck_program *p, FILE *out) {
    for (size_t i = 0; i < p->command_count; i++) {
        const char *word = command_word(p, i);
        if (word) {
            fprintf(out, "complete -c %s -n __fish_use_subcommand -a %s -d '", p->name, word);
            quoted(out, p->commands[i]->summary);
            fputs("'\n", out);
        }
        for (const ck_option *o = p->commands[i]->options; o->name; o++) {
            fprintf(out, "complete -c %s", p->name);
            if (word) fprintf(out, " -n '__fish_seen_subcommand_from %s'", word);
            fprintf(out, " -l %s", o->name);
            if (o->letter) fprintf(out, " -s %c", o->letter);
            if (o->type != CK_OPT_FLAG) fputs(" -r", out);
            if (o->type == CK_OPT_CHOICE) {
                fputs(" -f -a '", out);
                spaced(out, o->choices);
                fputs("'", out);
            }
            fputs(" -d '", out);
            quoted(out, o->help);
            fputs("'\n", out);
        }
    }
}

bool ck_cli_completion(const ck_program *p, const char *shell, FILE *out) {
    if (strcmp(shell, "bash") == 0)
        bash(p, out);
    else if (strcmp(shell, "zsh") == 0)
        zsh(p, out);
    else if (strcmp(shell, "fish") == 0)
        fish(p, out);
    else
        return false;
    return true;
}

bool ck_cli_standard(const ck_program *p, const ck_command *c, int argc, char **argv, FILE *out) {
    const char *word = argc > 1 ? argv[1] : "";
    /* People add --help to a command line that they are in the middle of. */
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0) word = argv[i];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        if (c)
            ck_cli_help(c, p, out);
        else
            ck_cli_program_help(p, out);
        return true;
    }
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        fprintf(out, "%s %s\n", p->name, p->version);
        return true;
    }
    if (strcmp(word, "--man") == 0) {
        ck_cli_man(p, out);
        return true;
    }
    return strcmp(word, "--completion") == 0 && argc > 2 && ck_cli_completion(p, argv[2], out);
}
