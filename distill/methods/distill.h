/* What distillation methods are written with: networks in one graph, asked at moments of the noise
 * process that are drawn anew for every sample and step.
 *
 *   static ck_status build(ck_distill *d, ck_error *err) {
 *       ck_point *from = ck_distill_point(d, "from"), *to = ck_distill_point(d, "to");
 *       ck_node x = ck_distill_noisy(d, from);
 *       ck_node x0 = ck_distill_guided(d, &d->teacher, x, from);
 *       ...
 *       return ck_distill_part(d, loss, d->student.params, err);
 *   }
 *   static void draw(ck_distill *d) {
 *       for (size_t i = 0; i < d->batch; i++) ck_point_set(d, from, i, moment of sample i);
 *   }
 *
 * A method is one file in distill/methods/ and one row in distill_methods.c. It builds its loss (or
 * losses) once; before every step it draws. The rest (gradients, optimiser, averages, checkpoints,
 * guards) is distill/run/trainer.h's.
 */
#ifndef CK_DISTILL_H
#define CK_DISTILL_H

#include "distill/models/network.h"
#include "distill/diffusion/process.h"

enum { CK_DISTILL_SETTINGS = 12, CK_DISTILL_PARTS = 2 };

/* The feeds that every method has, in this order. */
enum { CK_FEED_X0, CK_FEED_NOISE, CK_FEED_CONTEXT, CK_FEED_NO_CONTEXT };

/* A number in a config, method.NAME. */
typedef struct ck_setting {
    const char *name; /* NULL ends a list */
    double fallback, min, max;
    const char *help;
} ck_setting;

/* Settings of methods that draw the guidance of each sample, see ck_distill_draw_guidance. */
#define CK_SETTING_LEAST                                                                           \
    { "least", 1, 0, 100, "least guidance that is drawn" }
#define CK_SETTING_MOST                                                                            \
    { "most", 0, 0, 100, "most guidance that is drawn; 0: 'guidance' for all" }

/* An input of the graph and what it is given in the next run. */
typedef struct ck_feed {
    ck_node node;
    float *value;
    size_t n;
    ck_node from; /* this node's result becomes the value after a run; or CK_NONE */
    char *name;
} ck_feed;

/* Where in the process each sample of the batch is: inputs of N x 1 x ... x 1, by what they hold
 * (of ck_moment and ck_wrap; CK_AT_INVERSE is 1 / s, or 0 where s is 0). */
enum { CK_AT_A, CK_AT_S, CK_AT_INVERSE, CK_AT_IN, CK_AT_SKIP, CK_AT_OUT, CK_AT_TIME, CK_AT_COUNT };
typedef struct ck_point {
    ck_node node[CK_AT_COUNT];
    size_t feed[CK_AT_COUNT];
} ck_point;

/* A loss and the weights that it trains. */
typedef struct ck_part {
    ck_node loss;
    ck_params *params;
    ck_params *heads; /* these as well; or NULL */
} ck_part;

typedef enum ck_loss {
    CK_LOSS_L2,           /* d^2 */
    CK_LOSS_L1,           /* |d|, rounded off below 1e-4 */
    CK_LOSS_HUBER,        /* sqrt(d^2 + c^2) - c of every element */
    CK_LOSS_PSEUDO_HUBER, /* the same of the whole sample's |d| */
    CK_LOSS_SMOOTH,       /* Huber's own: d^2 / 2 up to c, c (|d| - c / 2) from there */
} ck_loss;

/* How a student that a method made is sampled. */
typedef enum ck_steps {
    CK_STEPS_DDIM,        /* along the trajectory, without new noise */
    CK_STEPS_CONSISTENCY, /* to x0 and back with new noise */
} ck_steps;

typedef struct ck_distill ck_distill;

typedef struct ck_distill_method {
    const char *name, *summary;
    const char *source; /* paper and year */
    ck_setting settings[CK_DISTILL_SETTINGS];
    ck_loss loss; /* unless the config says another */
    ck_steps steps;
    bool teacher; /* asks a teacher */
    bool average; /* asks the average of the student */
    bool rival;   /* trains a second network, which begins as the teacher */
    bool heads;   /* trains a discriminator, see heads.h */
    bool free;    /* needs no data, only captions */
    bool follows; /* from the same noise the student comes to where its teacher comes to */
    /* Appends nodes and adds one or two parts. */
    ck_status (*build)(ck_distill *d, ck_error *err);
    /* Sets points (and other feeds) for d->round. */
    void (*draw)(ck_distill *d);
    /* Which parts are trained in d->step, a bit for each; NULL: all. */
    unsigned (*turn)(const ck_distill *d);
    /* Before a step: whether student and teacher change roles now (progressive distillation): the
     * student so far becomes the teacher, and the optimiser begins anew. NULL: never. */
    bool (*promote)(const ck_distill *d);
    /* Before a step: whether the loss has another scale from now on, so that what it was says
     * nothing about what it should be. NULL: never (but after a promotion). */
    bool (*anew)(const ck_distill *d);
} ck_distill_method;

struct ck_distill {
    const ck_distill_method *method;
    double setting[CK_DISTILL_SETTINGS]; /* in the method's order */
    ck_loss loss;
    double huber;    /* c of the Huber losses */
    double guidance; /* scale of classifier-free guidance; 1: the teacher is asked once */
    size_t scale;    /* see ck_distill_scale; SIZE_MAX: nobody asked */
    size_t kept;     /* the feed of captions that outlast a round, or SIZE_MAX */
    size_t told;     /* the feed of what the rival is told in the place of guidance, or SIZE_MAX */
    bool heun;       /* the teacher's steps are Heun's, not Euler's */
    uint64_t seed;
    uint64_t step, steps; /* the one that is being made, from 0; of the whole run */
    uint64_t round;       /* the batch that is being made: a step may be of several */

    const ck_process *process;
    size_t batch;        /* samples of the graph: all of a round, or this process's part of it */
    size_t total, first; /* samples of a round, and which of them the graph's first is */
    ck_shape shape;      /* of a batch of samples, N first */
    ck_network teacher, student, average, rival;
    ck_network_config rival_config; /* if it is not the teacher's */
    ck_params *heads;               /* of a discriminator; or NULL */
    ck_node x0, noise;              /* N ...: data and unit noise */
    ck_node context, no_context;    /* N T C: of the captions, of the empty caption; or CK_NONE */

    ck_graph *graph;
    ck_feed *feeds;
    size_t feed_count, feed_capacity;
    ck_point **points;
    size_t point_count, point_capacity;
    ck_part parts[CK_DISTILL_PARTS];
    size_t part_count;
    void *own; /* what the method remembers of build, made with ck_distill_own */
};

/* The table of methods; NULL past the last, or if there is none of this name. */
const ck_distill_method *ck_distill_method_at(size_t i);
const ck_distill_method *ck_distill_method_find(const char *name);

/* Builds the graph: d is set up to `no_context` excluded, of zeroes behind. context: T and C of the
 * text, or 0. */
ck_status ck_distill_build(ck_distill *d, size_t tokens, size_t width, ck_error *err);
/* The same for samples of another size: d's networks and settings, not built. d outlives it. */
ck_distill ck_distill_resized(const ck_distill *d, ck_shape shape, const ck_process *process);
/* Releases what build made; networks and process are the caller's. */
void ck_distill_clear(ck_distill *d);

/* ---- For methods ---- */

/* Zeroed memory for d->own, released by ck_distill_clear. */
ck_status ck_distill_own(ck_distill *d, size_t size, ck_error *err);

/* An input of the graph, with a buffer of zeroes. The index into d->feeds, or SIZE_MAX after a
 * mistake, which the graph keeps. */
size_t ck_distill_feed(ck_distill *d, const char *name, ck_shape shape);
/* One number per sample, N x 1 x ... x 1. */
size_t ck_distill_coefficient(ck_distill *d, const char *name);
/* Never NULL: after a mistake, which the graph keeps, it is a point without nodes. */
ck_point *ck_distill_point(ck_distill *d, const char *name);
void ck_point_set(ck_distill *d, ck_point *p, size_t sample, ck_moment m);
/* All samples at moments as models are trained, and as weight (a coefficient) that under which
 * squared errors of x0 are those of the network's answer. */
void ck_distill_draw_training(ck_distill *d, ck_point *p, size_t weight);
/* After it is set: x0 of x is x there, whatever the network says. */
void ck_point_keep(ck_distill *d, ck_point *p, size_t sample);

/* Uniform in [0, 1) by seed, round, stream and sample (0 to batch - 1). */
double ck_distill_uniform(const ck_distill *d, uint32_t stream, size_t sample);
/* Normal with mean 0 and variance 1, the same way. */
double ck_distill_normal(const ck_distill *d, uint32_t stream, size_t sample);
/* A batch of unit noise; stream 0 is d->noise. */
void ck_distill_noise(const ck_distill *d, uint32_t stream, float *noise);

/* Samples that go on over several rounds keep their captions: from here on d->context is of those.
 * A sample that begins takes the caption of the batch. (Both do nothing where there are none.) */
void ck_distill_keep_context(ck_distill *d);
void ck_distill_take_context(ck_distill *d, size_t sample);

/* a x0 + s noise */
ck_node ck_distill_noisy(ck_distill *d, const ck_point *p, ck_node x0, ck_node noise);
/* The network's x0 of x, asked with this context (and told the scale, if it takes it; the rival
 * what is in the feed d->told, if there is one). */
ck_node ck_distill_x0(ck_distill *d, const ck_network *n, ck_node x, const ck_point *p,
                      ck_node context);
/* The feed of each sample's scale of guidance: made when first asked for, holding d->guidance. A
 * method that draws the scale (LCM) asks for it in build and sets it in draw; the teacher is then
 * guided with it (ck_distill_guided), and networks that are told the scale (ck_network_guided: the
 * student, when the config has guidance_width) are told it in every ck_distill_x0. */
size_t ck_distill_scale(ck_distill *d);
/* With classifier-free guidance: x0 of no caption + scale (x0 of the caption - that). One pass
 * where d->guidance is 1 and no method asked for the scale, and for networks that are told the
 * scale. */
ck_node ck_distill_guided(ck_distill *d, const ck_network *n, ck_node x, const ck_point *p);
/* For methods with the settings CK_SETTING_LEAST and _MOST, whose places in d->setting these are:
 * asks for the scale if it is to be drawn (most is not 0); draws it, alike between the two. */
void ck_distill_ask_guidance(ck_distill *d, int most);
void ck_distill_draw_guidance(ck_distill *d, int least, int most);
/* x at another moment on the straight way through x0: a DDIM step, which is Euler's in sigma. */
ck_node ck_distill_move(ck_distill *d, ck_node x, ck_node x0, const ck_point *from,
                        const ck_point *to);
/* A step of the network along its trajectory: DDIM, or Heun's if d->heun (Euler's
 * where `to` is clean; a may not be 0 at `from`). */
ck_node ck_distill_solve(ck_distill *d, const ck_network *n, ck_node x, const ck_point *from,
                         const ck_point *to);
/* The loss of d->loss between a prediction and a target that no gradient flows to, weighted per
 * sample (weight may be CK_NONE), the mean of the batch. */
ck_node ck_distill_distance(ck_distill *d, ck_node prediction, ck_node target, ck_node weight);
/* Adds a part; passes on a mistake of the graph. */
ck_status ck_distill_part(ck_distill *d, ck_node loss, ck_params *params, ck_error *err);

#endif
