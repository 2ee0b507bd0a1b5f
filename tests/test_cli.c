/* Command lines, and the texts that are made from their tables. */
#include "io/cli.h"
#include "tests/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    bool force, given;
    double alpha;
    uint64_t threads;
    const char *output, *dtype;
    ck_text_list rules;
} v;

static const ck_option options[] = {
    {.name = "alpha",
     .letter = 'a',
     .argument = "A",
     .type = CK_OPT_NUMBER,
     .value = &v.alpha,
     .given = &v.given,
     .help = "share of B"},
    {.name = "output",
     .letter = 'o',
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &v.output,
     .help = "where it goes. 'quoted' [text]: with \\ and a long help that has to be wrapped over "
             "lines"},
    {.name = "dtype",
     .argument = "D",
     .type = CK_OPT_CHOICE,
     .value = &v.dtype,
     .choices = "keep|f16",
     .help = "type"},
    {.name = "threads",
     .letter = 't',
     .argument = "N",
     .type = CK_OPT_COUNT,
     .value = &v.threads,
     .help = "threads"},
    {.name = "rule", .argument = "R", .type = CK_OPT_LIST, .value = &v.rules, .help = "rules"},
    {.name = "force", .letter = 'f', .type = CK_OPT_FLAG, .value = &v.force, .help = "replace"},
    {0},
};
static const ck_command command = {.name = "mix",
                                   .summary = "mixes things",
                                   .synopsis = "A B\n[-o FILE]",
                                   .details = ".details start with a dot",
                                   .options = options,
                                   .examples = "$ mix a b\n  mixes",
                                   .files = true};
static const ck_command *const commands[] = {&command};
static const ck_program program = {.name = "mix",
                                   .summary = "mixes things",
                                   .version = "9.9",
                                   .commands = commands,
                                   .command_count = 1,
                                   .exit_status = "0 or not"};

static ck_error err;
static const char **operands;
static size_t count;

/* Parses the words of a line. */
static ck_status parse(const char *line) {
    static char words[512];
    static char *argv[32];
    int argc = 0;
    free(v.rules.items);
    memset(&v, 0, sizeof v);
    free(operands);
    operands = NULL;
    snprintf(words, sizeof words, "mix %s", line);
    for (char *rest = NULL, *w = strtok_r(words, " ", &rest); w; w = strtok_r(NULL, " ", &rest))
        argv[argc++] = w;
    return ck_cli_parse(&command, argc, argv, &operands, &count, &err);
}

static void test_parse(void **state) {
    (void)state;
    assert_int_equal(parse("a --alpha 0.25 b -ofile -f --rule x --rule=y --dtype=f16 -t 3 c"),
                     CK_OK);
    assert_int_equal(count, 3);
    assert_string_equal(operands[2], "c");
    assert_true(v.alpha == 0.25 && v.given && v.force && v.threads == 3);
    assert_string_equal(v.output, "file");
    assert_string_equal(v.dtype, "f16");
    assert_int_equal(v.rules.count, 2);
    assert_string_equal(v.rules.items[1], "y");
    assert_int_equal(parse("--alpha -0.3 -- -x --alpha"), CK_OK);
    assert_true(v.alpha == -0.3);
    assert_int_equal(count, 2);
    assert_int_equal(parse("-0.5 - --alpha=1 --alpha=2"), CK_OK);
    assert_int_equal(count, 2);
    assert_true(v.alpha == 2);
    assert_int_equal(parse("-fo out"), CK_OK);
    assert_true(v.force);
    assert_string_equal(v.output, "out");
}

static void test_mistakes(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"--alhpa 1", "unknown option --alhpa; did you mean --alpha?"},
        {"--zzzzzzz", "unknown option --zzzzzzz; see `mix --help`"},
        {"-x", "unknown option -x"},
        {"--alpha", "--alpha needs A"},
        {"--alpha x", "--alpha x: must be a number"},
        {"--alpha nan", "must be a number"},
        {"--alpha 1e999", "must be a number"},
        {"--alpha=", "must be a number"},
        {"--threads -1", "must be a whole number"},
        {"--threads 99999999999999999999", "must be a whole number"},
        {"--dtype f17", "--dtype f17: must be one of keep|f16"},
        {"--dtype kee", "must be one of"},
        {"--force=1", "--force takes no value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (parse(cases[i][0]) != CK_USAGE) fail_msg("accepted: %s", cases[i][0]);
        if (!strstr(err.message, cases[i][1]))
            fail_msg("'%s' lacks '%s'", err.message, cases[i][1]);
    }
}

static void test_nearest(void **state) {
    (void)state;
    const char *const words[] = {"weighted-sum", "add-difference", "linear"};
    assert_string_equal(ck_cli_nearest("weigthed-sum", words, 3), "weighted-sum");
    assert_string_equal(ck_cli_nearest("linaer", words, 3), "linear");
    assert_null(ck_cli_nearest("ties", words, 3));
}

/* What a writer puts on a stream; the caller frees. */
static char *text_of(void (*write)(FILE *)) {
    char *text;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    write(out);
    fclose(out);
    return text;
}

static void write_help(FILE *out) {
    setenv("COLUMNS", "60", 1);
    ck_cli_help(&command, &program, out);
}

static void test_help(void **state) {
    (void)state;
    char *help = text_of(write_help);
    const char *want = "mix: mixes things\n\nusage: mix A B\n       mix [-o FILE]\n\n"
                       ".details start with a dot\n\nOptions\n"
                       "  -a, --alpha A           share of B\n"
                       "  -o, --output FILE       where it goes. 'quoted' [text]:\n"
                       "                          with \\ and a long help that has to\n"
                       "                          be wrapped over lines\n";
    assert_memory_equal(help, want, strlen(want));
    assert_non_null(strstr(help, "Examples\n  $ mix a b\n    mixes\n"));
    assert_non_null(strstr(help, "Exit status\n  0 or not\n"));
    assert_null(strchr(help, 0x1b));
    free(help);
}

static void write_man(FILE *out) {
    ck_cli_man(&program, out);
}

static void test_man(void **state) {
    (void)state;
    char *man = text_of(write_man);
    assert_non_null(strstr(man, ".TH \"mix\" 1"));
    assert_non_null(strstr(man, "\n\\&.details start"));
    assert_non_null(strstr(man, "with \\e and"));
    assert_non_null(strstr(man, "\\fB\\-a\\fR, \\fB\\-\\-alpha\\fR \\fIA\\fR"));
    free(man);
}

static void write_bash(FILE *out) {
    assert_true(ck_cli_completion(&program, "bash", out));
}

/* The script runs in a real bash and offers what it should. */
static void test_bash_completion(void **state) {
    (void)state;
    char path[] = "/tmp/ckmerge-completion-XXXXXX", command_line[512], line[64] = "";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "w");
    write_bash(file);
    fclose(file);
    snprintf(
        command_line, sizeof command_line,
        "bash -c 'source %s; COMP_WORDS=(mix --dtype f); COMP_CWORD=2; _mix; echo ${COMPREPLY[@]};"
        "COMP_WORDS=(mix --al); COMP_CWORD=1; _mix; echo ${COMPREPLY[@]}'",
        path);
    FILE *bash = popen(command_line, "r");
    assert_non_null(fgets(line, sizeof line, bash));
    assert_string_equal(line, "f16\n");
    assert_non_null(fgets(line, sizeof line, bash));
    assert_string_equal(line, "--alpha\n");
    assert_int_equal(pclose(bash), 0);
    remove(path);
}

static void write_zsh(FILE *out) {
    assert_true(ck_cli_completion(&program, "zsh", out));
    assert_false(ck_cli_completion(&program, "tcsh", out));
}

static void write_fish(FILE *out) {
    assert_true(ck_cli_completion(&program, "fish", out));
}

static void test_other_completions(void **state) {
    (void)state;
    char *zsh = text_of(write_zsh), *fish = text_of(write_fish);
    assert_non_null(strstr(zsh, "'--dtype=[type]:dtype:(keep f16)'"));
    assert_non_null(strstr(zsh, "'*--rule=[rules]:rule:'"));
    assert_non_null(strstr(fish, "complete -c mix -l dtype -r -f -a 'keep f16' -d 'type'"));
    free(zsh), free(fish);
}

static void test_standard_options(void **state) {
    (void)state;
    char *text;
    size_t n;
    char *version[] = {(char *)"mix", (char *)"--version"},
         *help[] = {(char *)"mix", (char *)"a", (char *)"--help"},
         *none[] = {(char *)"mix", (char *)"a"},
         *hidden[] = {(char *)"mix", (char *)"--", (char *)"--help"};
    FILE *out = open_memstream(&text, &n);
    assert_true(ck_cli_standard(&program, &command, 2, version, out));
    fflush(out);
    assert_string_equal(text, "mix 9.9\n");
    assert_true(ck_cli_standard(&program, &command, 3, help, out));
    assert_false(ck_cli_standard(&program, &command, 2, none, out));
    assert_false(ck_cli_standard(&program, &command, 3, hidden, out));
    fclose(out);
    free(text);
}

static void test_no_color(void **state) {
    (void)state;
    /* A file is no terminal; NO_COLOR cannot make it one. */
    assert_false(ck_cli_color(fopen("/dev/null", "w")));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_man),
        cmocka_unit_test(test_bash_completion),
        cmocka_unit_test(test_other_completions),
        cmocka_unit_test(test_standard_options),
        cmocka_unit_test(test_no_color),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(operands);
    free(v.rules.items);
    return failed;
}
