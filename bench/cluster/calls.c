/* A server and whoever calls it, on two nodes or on one. `calls serve NAME` answers with as many bytes as it is asked for. `calls ask NAME`
 * measures, as `cargo xtask bench cluster` asks on standard input: lines of a word and two numbers. The answer to each is a line:
 * nanoseconds of each request, or of all. `far.erl` answers the same words. */
#include "una.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK(call) do { int error_ = (call); if (error_) { printf("line %d gave %d\n", __LINE__, error_); exit(1); } } while (0)
#define REQUEST 64

static char buffer[65536];
static una_message message;
static una_answer answer;
static una_handle server;

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Requests begin with how many bytes are wanted. One of more than there can be is a wish for names: so many beyond that. */
static void serve(const char *name) {
    una_handle port;
    unsigned names = 0;
    OK(una_port_create(4096, 1 << 22, 0, &port));
    OK(una_bind(name, port));
    puts("ready");
    fflush(stdout);
    for (;;) {
        uint32_t wanted;
        OK(una_receive(port, buffer, sizeof buffer, &message, UNA_FOREVER));
        memcpy(&wanted, buffer, sizeof wanted);
        for (uint32_t left = wanted > sizeof buffer ? wanted - sizeof buffer : 0; left > 0; left--) {
            char path[200];
            snprintf(path, sizeof path, "%s-%u", name, names++);
            OK(una_bind(path, port));
        }
        OK(una_reply(message.reply, buffer, wanted > sizeof buffer ? REQUEST : wanted, 0, 0));
    }
}

static void call(uint32_t wanted) {
    char request[REQUEST] = { 0 };
    memcpy(request, &wanted, sizeof wanted);
    OK(una_call(server, request, sizeof request, 0, 0, buffer, sizeof buffer, &answer, UNA_FOREVER));
    if (wanted <= sizeof buffer && answer.length != wanted) exit(2);
}

/* As many processes as there are to be calls in flight. Each waits for its beginning, and says when it is done. */
static uint64_t many(long each, long in_flight) {
    una_handle begin, done;
    char count[32];
    OK(una_port_create((uint32_t)in_flight, 1 << 20, 0, &begin));
    OK(una_port_create((uint32_t)in_flight, 1 << 20, 0, &done));
    una_transfer given[3] = { { begin, UNA_RIGHT_RECEIVE, 0 }, { done, UNA_RIGHT_SEND, 0 }, { server, 0, 0 } };
    int length = snprintf(count, sizeof count, "calls%cworker%c%ld", 0, 0, each) + 1;
    for (long worker = 0; worker < in_flight; worker++) {
        una_spawned spawned;
        OK(una_spawn(-1, count, (uint32_t)length, "", 0, given, 3, &spawned));
        OK(una_close(spawned.process));
    }
    for (long worker = 0; worker < in_flight; worker++) OK(una_receive(done, buffer, sizeof buffer, &message, UNA_FOREVER));
    uint64_t start = now();
    for (long worker = 0; worker < in_flight; worker++) OK(una_send(begin, "b", 1, 0, 0, UNA_FOREVER));
    for (long worker = 0; worker < in_flight; worker++) OK(una_receive(done, buffer, sizeof buffer, &message, UNA_FOREVER));
    uint64_t taken = now() - start;
    OK(una_close(begin));
    OK(una_close(done));
    return taken;
}

static void work(long each) {
    const una_handle begin = UNA_FIRST_HANDLE, done = UNA_FIRST_HANDLE + 1;
    server = UNA_FIRST_HANDLE + 2;
    OK(una_send(done, "r", 1, 0, 0, UNA_FOREVER));
    OK(una_receive(begin, buffer, sizeof buffer, &message, UNA_FOREVER));
    for (long round = 0; round < each; round++) call(REQUEST);
    OK(una_send(done, "d", 1, 0, 0, UNA_FOREVER));
    exit(0);
}

/* Looks each of `count` names up that nobody has asked for here, or one name that has just been asked for so often. */
static uint64_t look_up(const char *name, long count, int cold) {
    static unsigned asked;
    char path[200];
    una_handle port;
    if (cold) call((uint32_t)(sizeof buffer + count));
    uint64_t start = now();
    for (long round = 0; round < count; round++) {
        if (cold) snprintf(path, sizeof path, "%s-%u", name, asked++);
        OK(una_lookup(cold ? path : name, &port));
        OK(una_close(port));
    }
    return now() - start;
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "serve")) serve(argv[2]);
    if (argc == 3 && !strcmp(argv[1], "worker")) work(atol(argv[2]));
    if (argc != 3 || strcmp(argv[1], "ask")) return 3;
    /* The server has begun a moment ago. */
    struct timespec moment = { 0, 10000000 };
    for (int tries = 0; una_lookup(argv[2], &server) && tries < 1000; tries++) nanosleep(&moment, 0);
    OK(una_lookup(argv[2], &server));
    char word[16];
    long first, second;
    while (scanf("%15s %ld %ld", word, &first, &second) == 3) {
        if (!strcmp(word, "pings")) {
            for (long round = 0; round < first; round++) {
                uint64_t start = now();
                call((uint32_t)second);
                printf(round + 1 < first ? "%llu " : "%llu\n", (unsigned long long)(now() - start));
            }
        } else if (!strcmp(word, "many")) {
            printf("%llu\n", (unsigned long long)many(first, second));
        } else if (!strcmp(word, "names")) {
            printf("%llu\n", (unsigned long long)look_up(argv[2], first, (int)second));
        } else {
            return 4;
        }
        fflush(stdout);
    }
    return 0;
}
