/* Two processes that exchange messages, as `cargo xtask bench local` asks on standard input: lines of a word and how often. The answer to each
 * is a line: nanoseconds for all of it. `exchange.erl` answers the same words. */
#include "una.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define BYTES 16
#define OK(call) do { int error_ = (call); if (error_) { printf("line %d gave %d\n", __LINE__, error_); exit(1); } } while (0)

static char buffer[4096];
static una_message message;
static una_answer answer;

/* What a message asks of the other process is its first byte. */
enum { PING = 'p', NOTHING = 'n', LAST = 'l' };

static const una_handle requests = UNA_FIRST_HANDLE, answers = UNA_FIRST_HANDLE + 1;

static void serve(void) {
    for (;;) {
        OK(una_receive(requests, buffer, sizeof buffer, &message, UNA_FOREVER));
        if (message.reply) OK(una_reply(message.reply, buffer, message.length, 0, 0));
        else if (buffer[0] != NOTHING) OK(una_send(answers, buffer, message.length, 0, 0, UNA_FOREVER));
    }
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static una_handle to_server, from_server, own;

static void call(uint64_t deadline) {
    OK(una_call(to_server, "0123456789abcdef", BYTES, 0, 0, buffer, sizeof buffer, &answer, deadline));
    if (answer.length != BYTES) exit(2);
}

static void send(una_handle port, char what) {
    char bytes[BYTES + 1] = "?123456789abcdef";
    bytes[0] = what;
    OK(una_send(port, bytes, BYTES, 0, 0, UNA_FOREVER));
}

static void receive(una_handle port) {
    OK(una_receive(port, buffer, sizeof buffer, &message, UNA_FOREVER));
    if (message.length != BYTES) exit(3);
}

static void work(const char *word, long count) {
    if (!strcmp(word, "call")) {
        for (long round = 0; round < count; round++) call(UNA_FOREVER);
    } else if (!strcmp(word, "deadline")) {
        for (long round = 0; round < count; round++) call(una_after_ms(5000));
    } else if (!strcmp(word, "ping")) {
        for (long round = 0; round < count; round++) send(to_server, PING), receive(from_server);
    } else if (!strcmp(word, "stream")) {
        for (long round = 1; round < count; round++) send(to_server, NOTHING);
        send(to_server, LAST), receive(from_server);
    } else if (!strcmp(word, "self")) {
        for (long round = 0; round < count; round++) send(own, NOTHING), receive(own);
    } else if (!strcmp(word, "clock")) {
        for (long round = 0; round < count; round++) now();
    } else {
        exit(4);
    }
}

int main(int argc, char **argv) {
    if (argc == 2) serve();
    una_spawned server;
    OK(una_port_create(1024, 1 << 20, 0, &to_server));
    OK(una_port_create(1024, 1 << 20, 0, &from_server));
    OK(una_port_create(1024, 1 << 20, 0, &own));
    una_transfer given[2] = { { to_server, UNA_RIGHT_RECEIVE, 0 }, { from_server, UNA_RIGHT_SEND, 0 } };
    OK(una_spawn(-1, "pair\0serve", 11, "", 0, given, 2, &server));
    char word[16];
    long count;
    while (scanf("%15s %ld", word, &count) == 2) {
        uint64_t start = now();
        work(word, count);
        printf("%llu\n", (unsigned long long)(now() - start));
        fflush(stdout);
    }
    return 0;
}
