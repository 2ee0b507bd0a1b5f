/* The main of programs that are tables of commands; see tool.h. */
#include "merge/tool.h"

#include <stdlib.h>
#include <string.h>

static const ck_tool *find_tool(const ck_program *program, const ck_tool *const *tools,
                                const char *word) {
    for (size_t i = 0; i < program->command_count; i++)
        if (strcmp(tools[i]->command->name + strlen(program->name) + 1, word) == 0) return tools[i];
    return NULL;
}

enum { MOST_COMMANDS = 64 };

static int unknown_command(const ck_program *program, const char *word) {
    const char *words[MOST_COMMANDS];
    size_t n = 0;
    for (; n < program->command_count && n < MOST_COMMANDS; n++)
        words[n] = program->commands[n]->name + strlen(program->name) + 1;
    const char *near = ck_cli_nearest(word, words, n);
    fprintf(stderr, "%s: unknown command '%s'%s%s%s; see `%s --help`\n", program->name, word,
            near ? "; did you mean " : "", near ? near : "", near ? "?" : "", program->name);
    return 2;
}

static ck_status run_on_file(const ck_tool *tool, const char *path, cJSON *files, bool *finding,
                             ck_error *err) {
    cJSON *object = files ? ck_tool_add_object(files) : NULL;
    if (files && !cJSON_AddStringToObject(object, "path", path)) return ck_fail_memory(err, path);
    ck_status status = tool->run_file(path, object, finding, err);
    if (status != CK_INPUT && status != CK_IO) return status;
    *finding = true;
    fprintf(stderr, "%s: %s\n", tool->command->name, err->message);
    if (files && !cJSON_AddStringToObject(object, "error", err->message))
        return ck_fail_memory(err, path);
    return CK_OK;
}

static ck_status run_on_files(const ck_tool *tool, const char *const *paths, size_t count,
                              bool *finding, ck_error *err) {
    cJSON *files = *tool->json ? cJSON_CreateArray() : NULL;
    ck_status status = *tool->json && !files ? ck_fail_memory(err, "report") : CK_OK;
    for (size_t i = 0; i < count && status == CK_OK; i++)
        status = run_on_file(tool, paths[i], files, finding, err);
    if (status == CK_OK && files) return ck_tool_print_json(files, true, err);
    cJSON_Delete(files);
    return status;
}

static ck_status run_tool(const ck_tool *tool, int argc, char **argv, bool *finding,
                          ck_error *err) {
    const char **operands;
    size_t count;
    CK_TRY(ck_cli_parse(tool->command, argc, argv, &operands, &count, err));
    ck_status status;
    bool any = tool->max_operands < tool->min_operands;
    if (count < tool->min_operands || (!any && count > tool->max_operands))
        status = ck_fail(err, CK_USAGE, "%zu operand%s given; usage: %s %.*s", count,
                         count == 1 ? "" : "s", tool->command->name,
                         (int)strcspn(tool->command->synopsis, "\n"), tool->command->synopsis);
    else
        status = tool->run ? tool->run(operands, count, err)
                           : run_on_files(tool, operands, count, finding, err);
    free(operands);
    if (status == CK_OK && (fflush(stdout) != 0 || ferror(stdout)))
        status = ck_fail_errno(err, "standard output");
    return status;
}

int ck_tool_main(const ck_program *program, const ck_tool *const *tools, int argc, char **argv) {
    if (argc < 2) {
        ck_cli_program_help(program, stderr);
        return 2;
    }
    const ck_tool *tool = find_tool(program, tools, argv[1]);
    if (!tool) {
        if (ck_cli_standard(program, NULL, argc, argv, stdout)) return 0;
        return unknown_command(program, argv[1]);
    }
    if (ck_cli_standard(program, tool->command, argc - 1, argv + 1, stdout)) return 0;
    ck_error err;
    bool finding = false;
    ck_status status = run_tool(tool, argc - 1, argv + 1, &finding, &err);
    if (status != CK_OK) fprintf(stderr, "%s: %s\n", tool->command->name, err.message);
    if (status == CK_CANCELLED) return 130;
    return status == CK_OK ? finding : status == CK_USAGE ? 2 : 1;
}
