/* cktool: looks at checkpoints, checks and compares them. The table of its commands, and main. */
#include "merge/recipe.h"
#include "merge/tool.h"

static const ck_tool *const tools[] = {
    &ck_tool_ls,          &ck_tool_inspect, &ck_tool_hash,    &ck_tool_verify,
    &ck_tool_scan,        &ck_tool_diff,    &ck_tool_split,   &ck_tool_join,
    &ck_tool_swap_vae,    &ck_tool_prune,   &ck_tool_convert, &ck_tool_extract_lora,
    &ck_tool_merge_loras,
};
enum { TOOLS = sizeof tools / sizeof *tools };

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
    return ck_tool_main(&program, tools, argc, argv);
}
