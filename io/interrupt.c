/* Signals as requests, see interrupt.h. Handlers are the process's, so the state is too. */
#include "io/interrupt.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
enum { SIGNALS = sizeof signals / sizeof *signals };

static struct sigaction before[SIGNALS];
static volatile sig_atomic_t asked;
static const char *text;
static size_t text_size;

static void request(int number) {
    if (asked) _exit(128 + number);
    asked = number;
    int saved = errno;
    ssize_t written = text_size ? write(STDERR_FILENO, text, text_size) : 0;
    (void)written; /* a terminal that is gone is no reason to stop */
    errno = saved;
}

void ck_interrupt_begin(const char *notice) {
    asked = 0;
    text = notice;
    text_size = notice ? strlen(notice) : 0;
    for (int i = 0; i < SIGNALS; i++) {
        struct sigaction action = {.sa_handler = request, .sa_flags = SA_RESTART};
        sigemptyset(&action.sa_mask);
        /* One at a time, so that two different ones are not both the first. */
        for (int j = 0; j < SIGNALS; j++) sigaddset(&action.sa_mask, signals[j]);
        sigaction(signals[i], NULL, &before[i]);
        if (before[i].sa_handler != SIG_IGN) sigaction(signals[i], &action, NULL);
    }
}

int ck_interrupt_asked(void) {
    return asked;
}

void ck_interrupt_end(void) {
    for (int i = 0; i < SIGNALS; i++) sigaction(signals[i], &before[i], NULL);
    asked = 0;
}
