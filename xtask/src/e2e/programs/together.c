/* Processes that work together and move each for itself: `together ROLE NAME ...`, where NAME makes the names of their ports.

     source NAME STOP ── a pipe ──► middle NAME ── messages ──► sink NAME        numbers 1, 2, 3 ..., and what they come to

     server NAME     answers each client's request with how many it has had of that client
     client NAME NUMBER STOP     asks, and looks whether the answer is the one that is due

   Each prints lines whose numbers must be 1, 2, 3 ... */
#include "una.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIPE_BYTES = 4096, MESSAGES = 16, NUMBERS_PER_LINE = 200, CLIENTS = 64 };

static void must(int error, const char *what) {
    if (error == UNA_OK) return;
    printf("failed: %s: %d\n", what, error);
    exit(1);
}

static const char *port_name(const char *name, const char *role) {
    static char path[128];
    snprintf(path, sizeof path, "/port/%s-%s", name, role);
    return path;
}

static una_handle bound(const char *name, const char *role) {
    una_handle port;
    must(una_port_create(MESSAGES, 1 << 16, 0, &port), "create a port");
    must(una_bind(port_name(name, role), port), "bind");
    return port;
}

/* Whoever binds it may come later. */
static una_handle found(const char *name, const char *role) {
    una_handle port;
    int error;
    while ((error = una_lookup(port_name(name, role), &port)) == UNA_NOT_FOUND) usleep(20000);
    must(error, "look up");
    return port;
}

static int is_over(const char *stop) { return access(stop, F_OK) == 0; }

static int source(const char *name, const char *stop) {
    una_handle pipe, middle = found(name, "middle");
    must(una_pipe_create(PIPE_BYTES, &pipe), "create a pipe");
    una_transfer ends = {pipe, UNA_RIGHT_READ | UNA_RIGHT_MOVE, 0};
    must(una_send(middle, "", 0, &ends, 1, UNA_FOREVER), "send the pipe");
    uint64_t number = 0, last = 0;
    do {
        if (number % NUMBERS_PER_LINE == 0) last = (uint64_t)is_over(stop);
        /* The last one says that it is. */
        uint64_t said = ++number | last << 63;
        const char *bytes = (const char *)&said;
        uint32_t done = 0, written;
        for (; done < sizeof said; done += written)
            must(una_pipe_write(pipe, bytes + done, sizeof said - done, &written, UNA_FOREVER), "write");
    } while (!last);
    return 0;
}

static int middle(const char *name) {
    una_handle port = bound(name, "middle"), sink = found(name, "sink");
    una_message message;
    must(una_receive(port, NULL, 0, &message, UNA_FOREVER), "receive the pipe");
    if (message.handle_count != 1) return 3;
    una_handle pipe = message.handles[0];
    uint64_t sent[2] = {0, 0}, said;
    do {
        uint32_t done = 0, length;
        for (; done < sizeof said; done += length) {
            must(una_pipe_read(pipe, (char *)&said + done, sizeof said - done, &length, UNA_FOREVER), "read");
            if (!length) return 4;
        }
        sent[0] = said;
        sent[1] = sent[1] * 31 + (said & ~(1ull << 63));
        must(una_send(sink, sent, sizeof sent, NULL, 0, UNA_FOREVER), "send");
    } while (!(said >> 63));
    return 0;
}

static int sink(const char *name) {
    una_handle port = bound(name, "sink");
    uint64_t got[2], number = 0, sum = 0;
    una_message message;
    do {
        must(una_receive(port, got, sizeof got, &message, UNA_FOREVER), "receive");
        number++;
        sum = sum * 31 + number;
        uint64_t said = got[0] & ~(1ull << 63);
        if (said != number || got[1] != sum) {
            printf("failed: %llu came where %llu was due\n", (unsigned long long)said, (unsigned long long)number);
            return 5;
        }
        if (number % NUMBERS_PER_LINE == 0) {
            printf("%llu\n", (unsigned long long)(number / NUMBERS_PER_LINE));
            fflush(stdout);
        }
    } while (!(got[0] >> 63));
    return 0;
}

static int server(const char *name) {
    una_handle port = bound(name, "server");
    static uint64_t counts[CLIENTS];
    uint64_t client;
    una_message message;
    for (;;) {
        must(una_receive(port, &client, sizeof client, &message, UNA_FOREVER), "receive");
        if (client >= CLIENTS || !message.reply) return 3;
        counts[client]++;
        must(una_reply(message.reply, &counts[client], sizeof counts[client], NULL, 0), "reply");
    }
}

static int client(const char *name, uint64_t number, const char *stop) {
    una_handle port = found(name, "server");
    for (uint64_t due = 1;; due++) {
        uint64_t answered = 0;
        una_answer answer;
        must(una_call(port, &number, sizeof number, NULL, 0, &answered, sizeof answered, &answer, UNA_FOREVER), "call");
        if (answered != due) {
            printf("failed: answer %llu came where %llu was due\n", (unsigned long long)answered, (unsigned long long)due);
            return 5;
        }
        if (due % NUMBERS_PER_LINE == 0) {
            printf("%llu\n", (unsigned long long)(due / NUMBERS_PER_LINE));
            fflush(stdout);
            if (is_over(stop)) return 0;
        }
    }
}

int main(int count, char **arguments) {
    const char *role = count > 2 ? arguments[1] : "";
    if (!strcmp(role, "source") && count > 3) return source(arguments[2], arguments[3]);
    if (!strcmp(role, "middle")) return middle(arguments[2]);
    if (!strcmp(role, "sink")) return sink(arguments[2]);
    if (!strcmp(role, "server")) return server(arguments[2]);
    if (!strcmp(role, "client") && count > 4) return client(arguments[2], strtoull(arguments[3], NULL, 10), arguments[4]);
    return 2;
}
