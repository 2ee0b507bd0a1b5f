/* What cuDNN itself says of the convolutions of real networks, without a card: it makes plans for
 * one that is only described to it, an H100. Nothing is run. The test is built where cuDNN is. */
#include "distill/engine/cuda/card.h"
#include "distill/engine/cuda/choices.h"
#include "distill/engine/cuda/convolutions.h"
#include "distill/models/unet.h"
#include "distill/models/vae.h"
#include "tests/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- The card ---- */

static const char h100[] =
    "{\"cudaDeviceId\":0,\"deviceId\":0,\"deviceVer\":900,\"driverVer\":13000,"
    "\"deviceName\":\"NVIDIA H100 80GB HBM3\",\"multiProcessorCount\":132,\"warpSize\":32,"
    "\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],"
    "\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,\"maxCtasPerSM\":32,"
    "\"regsPerBlock\":65536,\"maxRegistersPerSM\":65536,\"maxSharedMemoryPerBlock\":49152,"
    "\"maxSharedMemoryPerBlockOptin\":232448,\"reservedSharedMemoryPerBlock\":1024,"
    "\"totalGlobalMem\":85000000000,\"l2CacheSize\":52428800,\"smClockRateKHz\":1980000,"
    "\"memClockRateKHz\":2619000,\"pciDeviceId\":0,\"isTccDriver\":0,\"supportCoopLaunch\":1}";

static ck_error noted;

cudaStream_t ck_card_stream(void) {
    return NULL;
}

void ck_card_note(const char *what, const char *why) {
    if (!noted.message[0]) ck_fail(&noted, CK_IO, "%s: %s", what, why);
}

void ck_card_note_full(const char *what) {
    ck_card_note(what, "out of memory");
}

ck_status ck_card_check(ck_error *err) {
    return noted.message[0] ? ck_fail(err, CK_IO, "%s", noted.message) : CK_OK;
}

/* ---- Networks ---- */

static const ck_cuda_precision precisions[] = {CK_CUDA_F32, CK_CUDA_BF16};
enum { PRECISIONS = sizeof precisions / sizeof *precisions };

/* All plans that a graph needs; forward ones with a residual, too. Of those with a bias all is
 * added by the library, in what it has compiled already. */
static void plan_all(const ck_graph *g) {
    ck_error err;
    for (ck_node n = 0; n < (ck_node)g->count; n++) {
        const ck_graph_node *at = &g->nodes[n];
        bool forward = at->op == CK_OP_CONV;
        if (!forward && at->op != CK_OP_CONV_DATA_GRAD && at->op != CK_OP_CONV_WEIGHT_GRAD)
            continue;
        for (int p = 0; p < PRECISIONS; p++)
            for (int residual = 0; residual <= forward; residual++) {
                ck_gpu_added added = {forward && at->src[2] != CK_NONE, residual};
                bool bias = added.bias;
                void *plan;
                size_t workspace;
                if (ck_cuda_convolution(precisions[p], g, n, &added, &plan, &workspace, &err) !=
                    CK_OK)
                    fail_msg("%s", err.message);
                assert_true(added.bias == bias);
                assert_true(!bias || added.residual == residual);
            }
    }
}

static ck_node image(ck_graph *g, int64_t n, int64_t side, int64_t channels) {
    return ck_input(g, "x", CK_F32, CK_SHAPE(n, side, side, channels));
}

static void check_graph(const ck_graph *g) {
    ck_error err;
    if (ck_graph_check(g, &err) != CK_OK) fail_msg("%s", err.message);
}

/* SD1.5's UNet, a step of training of eight. */
static void plan_unet(void) {
    ck_unet_config c;
    ck_error err;
    ck_graph *g = ck_graph_new();
    ck_params *params = ck_params_new(1);
    if (ck_unet_read("tests/bench/unet860.json", &c, &err) != CK_OK) fail_msg("%s", err.message);
    const ck_unet_inputs in = {.x = image(g, 8, c.sample_size, c.in_channels),
                               .time = ck_input(g, "time", CK_F32, CK_SHAPE(8)),
                               .context = ck_input(g, "text", CK_F32, CK_SHAPE(8, 77, c.context))};
    ck_node y = ck_unet(g, params, &c, &in), loss = ck_mean(g, ck_mul(g, y, y));
    check_graph(g);
    size_t count = g->weight_count;
    ck_node *weights = malloc(count * sizeof *weights), *grads = malloc(count * sizeof *grads);
    for (size_t i = 0; i < count; i++) weights[i] = g->weights[i].node;
    if (ck_gradients(g, loss, weights, count, grads, &err) != CK_OK) fail_msg("%s", err.message);
    check_graph(g);
    plan_all(g);
    free(weights), free(grads);
    ck_params_free(params);
    ck_graph_free(g);
}

/* SD1.5's encoder, where images are padded below and right only, and its decoder. */
static void plan_vae(void) {
    const ck_vae_config c = {.in_channels = 3,
                             .out_channels = 3,
                             .latent_channels = 4,
                             .channels = {128, 256, 512, 512},
                             .levels = 4,
                             .layers = 2,
                             .groups = 32,
                             .quant = true,
                             .post_quant = true,
                             .attention = true,
                             .scale = 0.18215};
    ck_graph *g = ck_graph_new();
    ck_params *params = ck_params_new(1);
    ck_vae_encode(g, params, &c, image(g, 1, 512, 3));
    ck_vae_decode(g, params, &c, image(g, 1, 64, 4));
    check_graph(g);
    plan_all(g);
    ck_params_free(params);
    ck_graph_free(g);
}

static void plan_networks(void) {
    ck_error err;
    if (ck_cuda_convolutions_plan_for(h100, &err) != CK_OK) fail_msg("%s", err.message);
    plan_unet();
    plan_vae();
}

/* ---- Tests ---- */

/* Another process chooses; this one has to do as that one did, by what is kept of it. */
static void test_plans(void **state) {
    char command[4096], line[1024];
    const char *kind, *choice;
    ck_error err;
    size_t kept = 0;
    snprintf(command, sizeof command, "%s choose", (const char *)*state);
    FILE *other = popen(command, "r");
    assert_non_null(other);
    for (; fgets(line, sizeof line, other); kept++) {
        char *second = strchr(line, '\t');
        assert_non_null(second);
        *second++ = 0;
        second[strcspn(second, "\n")] = 0;
        assert_true(ck_cuda_is_convolution_choice(second));
        assert_int_equal(ck_choices_add(line, second, &err), CK_OK);
    }
    assert_int_equal(pclose(other), 0);
    assert_true(kept > 100);
    plan_networks();
    assert_false(ck_choices_at(kept, &kind, &choice)); /* nothing was chosen anew */
}

/* An engine that is none, of a run that is gone on with. */
static void test_choice_refused(void **state) {
    (void)state;
    ck_error err;
    ck_gpu_added added = {false, false};
    void *plan;
    size_t workspace;
    ck_graph *g = ck_graph_new();
    const int none[4] = {0};
    ck_node n = ck_conv(g, image(g, 2, 24, 8), ck_input(g, "w", CK_F32, CK_SHAPE(16, 1, 1, 8)),
                        CK_NONE, 1, none);
    check_graph(g);
    assert_int_equal(
        ck_choices_add("conv precision 2 n 2 h 24 w 24 c 8 by k 16 r 1 s 1 to p 24 q 24 "
                       "stride 1 top 0 left 0",
                       "99999 2=1", &err),
        CK_OK);
    assert_int_equal(ck_cuda_convolution(CK_CUDA_BF16, g, n, &added, &plan, &workspace, &err),
                     CK_USAGE);
    assert_non_null(strstr(err.message, "plans.json"));
    ck_graph_free(g);
}

int main(int argc, char **argv) {
    const char *kind, *choice;
    if (argc > 1) {
        plan_networks();
        for (size_t i = 0; ck_choices_at(i, &kind, &choice); i++) printf("%s\t%s\n", kind, choice);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_plans, argv[0]),
        cmocka_unit_test(test_choice_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
