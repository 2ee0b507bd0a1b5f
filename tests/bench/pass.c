/* Passes of a UNet with weights of chance, timed: what a step of sampling waits for, the answer
 * read back included. pass CONFIG.json BACKEND BATCH TOKENS [PEAK] prints the best and the median
 * of nine after three that make ready; PEAK: TFLOP/s of which a share is said. (With guidance a
 * picture is two of the batch.) tests/bench/pass.py is the same in torch. */
#include "distill/engine/cost.h"
#include "distill/models/unet.h"
#include "io/os.h"
#include "kernels/philox.h"
#include "tests/bench/bench.h"

#include <stdio.h>
#include <stdlib.h>

enum { READY = 3, TIMES = 9 };

/* An input with numbers of chance, and how many they are. */
static size_t fill(ck_exec *e, const ck_graph *g, ck_node n, float **numbers) {
    size_t count = (size_t)ck_shape_count(&g->nodes[n].shape);
    *numbers = malloc(count * sizeof **numbers);
    if (!*numbers) ok(ck_fail_memory(&err, "an input"));
    ck_philox_fill_normal(1, 0, (uint32_t)n, 0, count, *numbers);
    ok(ck_exec_write(e, n, *numbers, count, &err));
    return count;
}

static void time_passes(ck_exec *e, const ck_graph *g, const ck_node in[3], ck_node out,
                        double seconds[TIMES]) {
    float *data[3], *answer;
    size_t count = fill(e, g, in[0], &data[0]);
    fill(e, g, in[1], &data[1]), fill(e, g, in[2], &data[2]);
    answer = data[0]; /* as large */
    for (int i = -READY; i < TIMES; i++) {
        double start = ck_seconds();
        ok(ck_exec_write(e, in[0], data[0], count, &err));
        ok(ck_exec_run(e, &err));
        ok(ck_exec_read(e, out, answer, count, &err));
        if (i >= 0) seconds[i] = ck_seconds() - start;
    }
    sort_times(seconds, TIMES);
    for (int i = 0; i < 3; i++) free(data[i]);
}

static void tell(char **argv, const ck_backend *b, const ck_exec *e, const double seconds[TIMES]) {
    double middle = seconds[TIMES / 2], speed = ck_exec_operations(e) / middle / 1e12;
    printf("%s, pass, batch %s: %.2f ms (best %.2f), %.2f TFLOP/s", argv[2], argv[3], 1e3 * middle,
           1e3 * seconds[0], speed);
    if (argv[5]) printf(" (%.1f%% of %s)", 100 * speed / atof(argv[5]), argv[5]);
    printf(", plan %.0f MiB", (double)ck_exec_peak(e) / 0x1p20);
    print_taken(b);
    printf("\n");
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: pass CONFIG.json BACKEND BATCH TOKENS [PEAK]\n");
        return 2;
    }
    ck_unet_config c;
    const ck_backend *b;
    ck_exec *e;
    double seconds[TIMES];
    int64_t n = atoll(argv[3]), tokens = atoll(argv[4]);
    ok(ck_unet_read(argv[1], &c, &err));
    ok(ck_backend_open(argv[2], &b, &err));
    ck_params *params = ck_params_new(1);
    ck_graph *g = ck_graph_new();
    if (!params || !g) ok(ck_fail_memory(&err, "a network"));
    const ck_node in[] = {
        ck_input(g, "x", CK_F32, CK_SHAPE(n, c.sample_size, c.sample_size, c.in_channels)),
        ck_input(g, "time", CK_F32, CK_SHAPE(n)),
        ck_input(g, "context", CK_F32, CK_SHAPE(n, tokens, c.context))};
    const ck_unet_inputs inputs = {.x = in[0], .time = in[1], .context = in[2]};
    ck_node out = ck_unet(g, params, &c, &inputs);
    ok(ck_graph_check(g, &err));
    ok(ck_exec_new(b, g, &out, 1, &e, &err));
    ok(ck_exec_allocate(e, 0, &err));
    time_passes(e, g, in, out, seconds);
    tell(argv, b, e, seconds);
    ck_exec_free(e);
    ck_graph_free(g);
    ck_params_free(params);
    return 0;
}
