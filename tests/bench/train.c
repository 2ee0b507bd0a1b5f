/* A training step (forward, backward) of a UNet with weights of chance, timed.
 *   train CONFIG.json BACKEND BATCH TOKENS [checkpoint]
 * prints: parameters, seconds of the best of five, MiB of the plan; GFLOP of the step, its speed
 * and that of a large product on the same backend in the same run, which no operation should be far
 * from; then by operation the seconds, of each the best, and where they are for products the speed.
 * tests/bench/train.py is the same in torch.
 */
#include "distill/engine/cost.h"
#include "distill/models/unet.h"
#include "tests/bench/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { MOST = 8192, TIMES = 5 };

static double total(const ck_exec *e) {
    double sum = 0;
    for (int op = 0; op < CK_OP_COUNT; op++) sum += ck_exec_seconds(e)[op];
    return sum;
}

/* Seconds by operation, and of what takes the time because it multiplies, how fast. */
static void print_operations(const ck_graph *g, const double *seconds, double step, double peak) {
    double operations[CK_OP_COUNT] = {0};
    for (size_t i = 0; i < g->count; i++) operations[g->nodes[i].op] += ck_cost_node(g, (ck_node)i);
    for (int op = 0; op < CK_OP_COUNT; op++) {
        if (seconds[op] <= 0.002 * step) continue;
        printf("  %-18s %.3f s %4.0f%%", ck_op_name((ck_op)op), seconds[op],
               100 * seconds[op] / step);
        double speed = operations[op] / seconds[op];
        if (speed > 0)
            printf(", %5.0f GFLOP/s, %3.0f%% of the peak", speed / 1e9, 100 * speed / peak);
        printf("\n");
    }
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: train CONFIG.json BACKEND BATCH TOKENS [checkpoint]\n");
        return 2;
    }
    ck_unet_config c;
    const ck_backend *b;
    ok(ck_unet_read(argv[1], &c, &err));
    ok(ck_backend_open(argv[2], &b, &err));
    int64_t n = atoll(argv[3]), tokens = atoll(argv[4]);
    c.checkpoint = argc > 5;
    ck_graph *g = ck_graph_new();
    ck_params *p = ck_params_new(1);
    ck_shape image = CK_SHAPE(n, c.sample_size, c.sample_size, c.in_channels);
    ck_node x = ck_input(g, "x", CK_F32, image), target = ck_input(g, "target", CK_F32, image);
    ck_node time = ck_input(g, "time", CK_F32, CK_SHAPE(n));
    ck_node text = ck_input(g, "text", CK_F32, CK_SHAPE(n, tokens, c.context));
    ck_node out = ck_unet(g, p, &c, &(ck_unet_inputs){.x = x, .time = time, .context = text});
    ck_node off = ck_sub(g, out, target), loss = ck_mean(g, ck_mul(g, off, off));
    ok(ck_graph_check(g, &err));
    static ck_node weights[MOST], outputs[MOST + 1];
    size_t count = 0, parameters = 0;
    for (size_t i = 0; i < g->count && count < MOST; i++)
        if (g->nodes[i].op == CK_OP_PARAM) weights[count++] = (ck_node)i;
    for (size_t i = 0; i < count; i++) parameters += ck_params_elements(p, i);
    outputs[0] = loss;
    ok(ck_gradients(g, loss, weights, count, outputs + 1, &err));
    ck_exec *e;
    ok(ck_exec_new(b, g, outputs, count + 1, &e, &err));
    ok(ck_exec_allocate(e, 0, &err));
    ok(ck_exec_run(e, &err));
    double best = INFINITY, least[CK_OP_COUNT], before[CK_OP_COUNT];
    for (int i = 0; i < TIMES; i++) {
        memcpy(before, ck_exec_seconds(e), sizeof before);
        double start = total(e);
        ok(ck_exec_run(e, &err));
        best = fmin(best, total(e) - start);
        for (int op = 0; op < CK_OP_COUNT; op++) {
            double seconds = ck_exec_seconds(e)[op] - before[op];
            least[op] = i ? fmin(least[op], seconds) : seconds;
        }
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("%s: %.1f million parameters, %.3f s a step, plan %.0f MiB, process %.0f MiB\n", argv[2],
           (double)parameters / 1e6, best, (double)ck_exec_peak(e) / 0x1p20,
           (double)usage.ru_maxrss / 1024);
    double peak, speed = ck_exec_operations(e) / best;
    ok(ck_cost_speed(b, &peak, &err));
    printf("  %.1f GFLOP: %.0f GFLOP/s, %.0f%% of the %.0f of a large product\n",
           ck_exec_operations(e) / 1e9, speed / 1e9, 100 * speed / peak, peak / 1e9);
    print_operations(g, least, best, peak);
    ck_exec_free(e), ck_graph_free(g), ck_params_free(p);
    return 0;
}
