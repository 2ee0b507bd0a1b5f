/* cktool: looks at checkpoints, checks and compares them. The table of its commands, and main. */
#include "merge/recipe.h"
#include "merge/tool.h"

#include <stdlib.h>
#include <string.h>

static const ck_tool *const tools[] = {
    &ck_tool_ls,       &ck_tool_inspect, &ck_tool_hash,    &ck_tool_verify,
    &ck_tool_scan,     &ck_tool_diff,    &ck_tool_split,   &ck_tool_join,
    &ck_tool_swap_vae, &ck_tool_prune,   &ck_tool_convert,
};
enum { TOOLS = sizeof tools / sizeof *tools };

static const ck_tool *find_tool(const ck_program *program, const char *word) {
    for (size_t i = 0; i < TOOLS; i++)
        if (strcmp(tools[i]->command->name + strlen(program->name) + 1, word) == 0) return tools[i];
    return NULL;
}

static int unknown_command(const ck_program *program, const char *word) {
    const char *words[TOOLS];
    for (size_t i = 0; i < TOOLS; i++)
        words[i] = tools[i]->command->name + strlen(program->name) + 1;
    const char *near = ck_cli_nearest(word, words, TOOLS);
    fprintf(stderr, "cktool: unknown command '%s'%s%s%s; see `cktool --help`\n", word,
            near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
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
    if (count < tool->min_operands || (tool->max_operands && count > tool->max_operands))
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

int main(int argc, char **argv) {
    const ck_command *commands[TOOLS];
    for (size_t i = 0; i < TOOLS; i++) commands[i] = tools[i]->command;
    const ck_program program = {
        .name = "cktool",
        .summary = "look at, check, compare, take apart, join and convert checkpoints",
        .version = CK_VERSION,
        .commands = commands,
        .command_count = TOOLS,
        .exit_status =
            "0 done; 1 a file could not be read or is not as it should be; 2 wrong usage.",
    };
    if (argc < 2) {
        ck_cli_program_help(&program, stderr);
        return 2;
    }
    const ck_tool *tool = find_tool(&program, argv[1]);
    if (!tool) {
        if (ck_cli_standard(&program, NULL, argc, argv, stdout)) return 0;
        return unknown_command(&program, argv[1]);
    }
    if (ck_cli_standard(&program, tool->command, argc - 1, argv + 1, stdout)) return 0;
    ck_error err;
    bool finding = false;
    ck_status status = run_tool(tool, argc - 1, argv + 1, &finding, &err);
    if (status != CK_OK) fprintf(stderr, "%s: %s\n", tool->command->name, err.message);
    return status == CK_OK ? finding : status == CK_USAGE ? 2 : 1;
}
